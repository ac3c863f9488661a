"""The local cache of huggingface_hub: where it is, and what it has."""

from __future__ import annotations

from pathlib import Path

from s2l_ray.hub.names import Repository, is_commit


def cache() -> Path:
    """The local cache of the Hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_directory(repository: Repository) -> Path | None:
    """The directory of the newest snapshot that the cache has of a revision; None if it has none."""
    from huggingface_hub.file_download import repo_folder_name

    folder = cache() / repo_folder_name(repo_id=repository.id, repo_type=repository.kind)
    revision = repository.revision or "main"
    reference = folder / "refs" / revision
    commit = reference.read_text(encoding="ascii", errors="replace").strip() if reference.is_file() else revision
    directory = folder / "snapshots" / commit
    return directory.resolve() if is_commit(commit) and directory.is_dir() else None


def names_below(directory: Path) -> list[str]:
    """The files in a directory, by their paths relative to it."""
    return sorted(file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file())
