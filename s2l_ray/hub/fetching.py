"""Getting what is on the Hub into the local cache, once, whole and bounded.

huggingface_hub does the work, so HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and proxies mean what its
documentation says. Where HF_HOME is on a volume that all nodes share, the files are fetched once for all of them.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from s2l_ray.errors import HubError
from s2l_ray.hub.names import DatasetSplit, Repository
from s2l_ray.hub.progress import FetchTimeoutError, Progress, Watch
from s2l_ray.hub.splits import README, files_of

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
    return _fetch(repository, lambda snapshot, names: model_files(names), progress, timeout_s)


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
    with _explained(repository):
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
    directory = _cached_directory(split.repository)
    if directory is None:
        raise HubError(f"{split} is not in the local cache ({_cache()})")
    readme = directory / README
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else None
    return [directory / name for name in files_of(split, _names_below(directory), text)]


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
    from huggingface_hub import constants, snapshot_download

    with _explained(repository, timeout_s):
        listing = _list(repository)
        if listing is None:
            return _from_cache(repository, choose)
        files = choose(listing, list(listing.sizes))
        _check_space(listing, files)
        watch = Watch(sum(listing.sizes[name] for name in files), progress, timeout_s)
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
        info = HfApi(endpoint=constants.ENDPOINT).repo_info(
            repository.id, repo_type=repository.kind, revision=repository.revision, files_metadata=True, timeout=10.0
        )
    except (TransportError, OfflineModeIsEnabled):
        if _cached_directory(repository) is None:
            raise
        return None
    return _Listing(repository.at(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or []})


def _from_cache(repository: Repository, choose: Callable[[_Listing, Sequence[str]], list[str]]) -> Snapshot:
    """What the cache has, where the Hub cannot be asked. Whether a model is whole is checked when it is read."""
    directory = _cached_directory(repository)
    if directory is None:
        raise HubError(f"{repository} is not in the local cache ({_cache()})")
    names = _names_below(directory)
    pinned = repository.at(directory.name)
    return Snapshot(pinned, directory, tuple(choose(_Listing(pinned, dict.fromkeys(names, 0)), names)), False)


def _small_file(repository: Repository, name: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

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
    cache = _cache()
    present = _cached_directory(listing.repository)
    missing = sum(listing.sizes[name] for name in files if present is None or not (present / name).exists())
    place = next(parent for parent in (cache, *cache.parents) if parent.exists())
    if missing > (free := shutil.disk_usage(place).free):
        raise HubError(
            f"{listing.repository} needs {missing / 1e9:.1f} GB in {cache}, which has {free / 1e9:.1f} GB free; set "
            "HF_HOME to a place with more"
        )


# ---- the cache ------------------------------------------------------------------------------------------------------


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cached(repository: Repository, name: str) -> Path | None:
    """The directory of the snapshot, if it has the file."""
    directory = _cached_directory(repository)
    return directory if directory is not None and (directory / name).is_file() else None


def _cached_directory(repository: Repository) -> Path | None:
    from huggingface_hub.file_download import repo_folder_name

    folder = _cache() / repo_folder_name(repo_id=repository.id, repo_type=repository.kind)
    revision = repository.revision or "main"
    reference = folder / "refs" / revision
    commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else revision
    directory = folder / "snapshots" / commit
    return directory.resolve() if directory.is_dir() else None


def _names_below(directory: Path) -> list[str]:
    return sorted(file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file())


# ---- errors ---------------------------------------------------------------------------------------------------------


@contextmanager
def _explained(repository: Repository, timeout_s: float = 0.0) -> Iterator[None]:
    """Say in one message what kept the block from fetching, and what to do."""
    from httpx2 import HTTPError
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub, what = constants.ENDPOINT, f"the {_kind(repository)} {repository.id}"
    try:
        yield
    except FetchTimeoutError:
        message = (
            f"{what} did not arrive from {hub} within {timeout_s:.0f} s (cluster.fetch_timeout_s); what did arrive is "
            "kept, and the same command goes on from there"
        )
    except OfflineModeIsEnabled:
        message = (
            f"{what} is not in the local cache ({_cache()}) and HF_HUB_OFFLINE is set; unset it, or fetch it where "
            f"there is a network: hf download {_arguments(repository)}"
        )
    except GatedRepoError:
        message = (
            f"{what} is gated: accept its terms at {hub}/{_page(repository)}, and put a token of that account into the "
            "environment variable HF_TOKEN"
        )
    except RepositoryNotFoundError:
        message = (
            f"{hub} has no {_kind(repository)} {repository.id}, or none that may be read with the token in HF_TOKEN; "
            "correct the name, or set HF_TOKEN if it is private"
        )
    except RevisionNotFoundError:
        message = f"{what} has no revision {repository.revision}; see {hub}/{_page(repository)}/commits"
    except LocalEntryNotFoundError as error:
        message = (
            f"{what} did not arrive from {hub} ({_line(error.__cause__ or error)}); the same command goes on from there"
        )
    except EntryNotFoundError as error:
        message = f"{what}: {_line(error)}"
    except HfHubHTTPError as error:
        message = f"{hub} answers {error.response.status_code} when asked for {what}; try again later"
    except HTTPError as error:
        message = (
            f"{hub} does not answer ({_line(error)}) and {what} is not in the local cache ({_cache()}); check the "
            "network and HF_ENDPOINT, or fetch it elsewhere"
        )
    except OSError as error:
        message = f"{what} cannot be written to {_cache()} ({error.strerror or error}); set HF_HOME to another place"
    else:
        return
    raise HubError(message)


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _kind(repository: Repository) -> str:
    return {"model": "model", "dataset": "data set"}[repository.kind]


def _page(repository: Repository) -> str:
    return f"datasets/{repository.id}" if repository.kind == "dataset" else repository.id


def _arguments(repository: Repository) -> str:
    kind = " --repo-type dataset" if repository.kind == "dataset" else ""
    revision = f" --revision {repository.revision}" if repository.revision else ""
    return f"{repository.id}{kind}{revision}"
