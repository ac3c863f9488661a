"""Getting what is on the Hub into the local cache, once, whole and bounded.

huggingface_hub does the work, so HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and proxies mean what its
documentation says. Where HF_HOME is on a volume that all nodes share, the files are fetched once for all of them.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s2l_ray.errors import HubError
from s2l_ray.hub.cache import cache, cached_directory, names_below
from s2l_ray.hub.explaining import explained, understood
from s2l_ray.hub.names import DatasetSplit, Repository, is_commit
from s2l_ray.hub.progress import Progress, Watch
from s2l_ray.hub.splits import README, files_of
from s2l_ray.machine.bounded import bounded

BESIDE_WEIGHTS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
"""Endings of the small files of a model: configuration, tokenizer, templates, code."""
TEMPLATES = "additional_chat_templates/"


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit, in the local cache."""

    repository: Repository
    """Its revision is the commit."""
    directory: Path
    files: tuple[str, ...]
    """Paths below the directory: those that were asked for."""
    asked_hub: bool = True
    """Whether the Hub said that this is the commit; else it is the newest one in the cache."""


@dataclass(frozen=True)
class _Listing:
    """What a repository holds at a commit."""

    repository: Repository
    sizes: dict[str, int]
    """Bytes by the path of the file."""


def fetch_model(repository: Repository, progress: Progress, timeout_s: float) -> Snapshot:
    """Fetch configuration, tokenizer and safetensors files of a model; what the cache has is not fetched again.

    Raises:
        HubError: it does not exist, may not be read, or does not arrive within `timeout_s` seconds.
    """

    def choose(listing: _Listing, names: Sequence[str]) -> list[str]:
        if not (files := model_files(names)):
            raise HubError(f"{listing.repository} has no files of a model (config.json, *.safetensors)")
        return files

    return _fetch(repository, choose, progress, timeout_s)


def fetch_split(split: DatasetSplit, progress: Progress, timeout_s: float) -> Snapshot:
    """Fetch the files of a split of a data set, and README.md, which tells which they are.

    Raises:
        HubError: there is no such split; else as `fetch_model`.
    """

    def choose(listing: _Listing, names: Sequence[str]) -> list[str]:
        readme = _small_file(listing.repository, README) if README in names else None
        found = files_of(split, names, readme.read_text(encoding="utf-8", errors="replace") if readme else None)
        return [*found, *([README] if readme else [])]

    return _fetch(split.repository, choose, progress, timeout_s)


def fetch_file(repository: Repository, name: str) -> Path:
    """Fetch one small file.

    Raises:
        HubError: as `fetch_model`; or there is no such file.
    """
    with explained(repository):
        _list(repository)  # fails at once where the Hub cannot be asked; a download would try for half a minute
        return _small_file(repository, name)


def cached_model(repository: Repository) -> Path | None:
    """The directory of a model in the local cache; None if it is not there. Asks nobody."""
    return _cached(repository, "config.json")


def cached_split(split: DatasetSplit) -> list[Path]:
    """The files of a split in the local cache. Asks nobody.

    Raises:
        HubError: they are not there.
    """
    directory = cached_directory(split.repository)
    if directory is None:
        raise HubError(f"{split} is not in the local cache ({cache()})")
    readme = directory / README
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else None
    return [directory / name for name in files_of(split, names_below(directory), text)]


def model_files(names: Sequence[str]) -> list[str]:
    """Those files of a repository that a model is loaded from.

    Weights are what `save_pretrained` writes, model*.safetensors; only without such a file any other safetensors file
    counts. Repositories also have the same weights in other formats, under other names.
    """
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if name.endswith(".safetensors")]
    own = [name for name in weights if name.startswith("model")]
    beside = [name for name in top if name.endswith(BESIDE_WEIGHTS)]
    return sorted([*(own or weights), *beside, *(name for name in names if name.startswith(TEMPLATES))])


# ---- fetching -------------------------------------------------------------------------------------------------------


def _fetch(
    repository: Repository,
    choose: Callable[[_Listing, Sequence[str]], list[str]],
    progress: Progress,
    timeout_s: float,
) -> Snapshot:
    """Fetch in a thread of its own: huggingface_hub waits without bound for another process that fetches the same."""
    with explained(repository, timeout_s):
        return bounded(lambda alive: _arrived(repository, choose, progress, timeout_s, alive), timeout_s)


def _arrived(
    repository: Repository,
    choose: Callable[[_Listing, Sequence[str]], list[str]],
    progress: Progress,
    timeout_s: float,
    alive: Callable[[], None],
) -> Snapshot:
    from huggingface_hub import constants, snapshot_download

    listing = _list(repository)
    if listing is None:
        return _from_cache(repository, choose)
    files = choose(listing, list(listing.sizes))
    _check_space(listing, files)
    alive()
    watch = Watch(sum(listing.sizes[name] for name in files), progress, timeout_s, alive)
    with understood(repository):
        directory = snapshot_download(
            repository.id,
            repo_type=repository.kind,
            revision=repository.revision,  # not the commit: then the cache would not know what the branch was at
            allow_patterns=[glob.escape(name) for name in files],
            cache_dir=constants.HF_HUB_CACHE,
            endpoint=constants.ENDPOINT,
            tqdm_class=watch.bar(),
        )
    found = Path(directory).resolve()
    return Snapshot(repository.at(found.name), found, tuple(files))


def _list(repository: Repository) -> _Listing | None:
    """The files of the repository; None where the Hub cannot be asked."""
    from httpx2 import TransportError
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        with understood(repository):
            info = HfApi(endpoint=constants.ENDPOINT).repo_info(
                repository.id,
                repo_type=repository.kind,
                revision=repository.revision,
                files_metadata=True,
                timeout=10.0,
            )
            commit, sizes = info.sha, {file.rfilename: file.size or 0 for file in info.siblings or []}
            if not is_commit(commit) or not all(isinstance(name, str) for name in sizes):
                raise ValueError("it names no commit or no files")
            sum(sizes.values())
    except (TransportError, OfflineModeIsEnabled):
        if cached_directory(repository) is None:
            raise
        return None
    return _Listing(repository.at(str(commit)), sizes)


def _from_cache(repository: Repository, choose: Callable[[_Listing, Sequence[str]], list[str]]) -> Snapshot:
    """What the cache has, where the Hub cannot be asked. Whether a model is whole is checked when it is read."""
    directory = cached_directory(repository)
    if directory is None:
        raise HubError(f"{repository} is not in the local cache ({cache()})")
    names = names_below(directory)
    pinned = repository.at(directory.name)
    return Snapshot(pinned, directory, tuple(choose(_Listing(pinned, dict.fromkeys(names, 0)), names)), False)


def _small_file(repository: Repository, name: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

    with understood(repository):
        return Path(
            hf_hub_download(
                repository.id,
                name,
                repo_type=repository.kind,
                revision=repository.revision,
                cache_dir=constants.HF_HUB_CACHE,
                endpoint=constants.ENDPOINT,
            )
        )


def _check_space(listing: _Listing, files: Sequence[str]) -> None:
    there = cache()
    present = cached_directory(listing.repository)
    missing = sum(listing.sizes[name] for name in files if present is None or not (present / name).exists())
    place = next(parent for parent in (there, *there.parents) if parent.exists())
    if missing > (free := shutil.disk_usage(place).free):
        raise HubError(
            f"{listing.repository} needs {missing / 1e9:.1f} GB in {there}, which has {free / 1e9:.1f} GB free; set "
            "HF_HOME to a place with more"
        )


def _cached(repository: Repository, name: str) -> Path | None:
    """The directory of the snapshot, if it has the file."""
    directory = cached_directory(repository)
    return directory if directory is not None and (directory / name).is_file() else None
