"""Models and data that a configuration names by their place on the Hub: fetched, and pinned to a commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from s2l_ray.errors import HubError
from s2l_ray.hub.fetching import Snapshot, cached_split, fetch_model, fetch_split
from s2l_ray.hub.names import DatasetSplit, Repository, dataset_split, model_repository

if TYPE_CHECKING:
    from s2l_ray.config import Config

SOURCES = ("models.learner", "models.explorer", "data.train", "data.eval")
"""Keys whose values may name what is on the Hub."""


class FetchWatcher(Protocol):
    """Told how far fetching has got. A `Reporter` is one."""

    def phase(self, text: str) -> None:
        """A download begins."""

    def progress(self, done: int, total: int) -> None:
        """So many megabytes have arrived."""

    def note(self, text: str) -> None:
        """Something the user should know."""


@dataclass(frozen=True)
class Pin:
    """What was asked for, and the commit that it was at."""

    asked: str
    """Value of the key."""
    pinned: str
    """The same with a commit as its revision."""


def fetch_sources(
    config: Config, watcher: FetchWatcher, before: Mapping[str, Pin] | None = None
) -> tuple[Config, dict[str, Pin]]:
    """Fetch what the configuration names by its place on the Hub. Paths are left as they are.

    Args:
        config: of a run.
        watcher: told of every download.
        before: pins of an earlier start of the run, by key. What is asked for as it was then stays at that commit,
            although its branch may have moved on.

    Returns:
        The configuration with a commit in each such value, and the pins by key.

    Raises:
        HubError: something cannot be fetched; the message names the key.
    """
    pins: dict[str, Pin] = {}
    for key in SOURCES:
        section, name = key.split(".")
        asked = getattr(getattr(config, section), name)
        try:
            source = hub_source(key, asked)
            if source is None:
                continue
            known = (before or {}).get(key)
            if known is not None and known.asked == asked:
                source = hub_source(key, known.pinned) or source
            pins[key] = Pin(asked, str(_fetched(source, config.cluster.fetch_timeout_s, watcher)))
        except HubError as error:
            raise HubError(f"{key}: {error}") from None
        values = getattr(config, section).model_copy(update={name: pins[key].pinned})
        config = config.model_copy(update={section: values})
    return config, pins


def fetch_source(key: str, value: str, timeout_s: float, watcher: FetchWatcher) -> str:
    """Fetch what a value names on the Hub, if it does.

    Args:
        key: whose value it could be, of `SOURCES`.
        value: a path, or a name on the Hub.
        timeout_s: bound on it.
        watcher: told of the download.

    Returns:
        A path as it is, else the name with a commit.

    Raises:
        HubError: it cannot be fetched.
    """
    source = hub_source(key, value)
    return value if source is None else str(_fetched(source, timeout_s, watcher))


def hub_source(key: str, value: str | None) -> Repository | DatasetSplit | None:
    """What the value of a key names on the Hub; None if it is a path or nothing.

    Raises:
        HubError: it begins as an address of the Hub does, and is none.
    """
    if value is None:
        return None
    if key.startswith("data."):
        return dataset_split(value)
    return None if Path(value).expanduser().is_dir() else model_repository(value)


def data_files(value: str | Path) -> list[Path]:
    """The files that a value of data.train or data.eval stands for: itself, or those of a split that was fetched.

    Raises:
        HubError: they have not been fetched.
    """
    split = dataset_split(str(value))
    return [Path(value)] if split is None else cached_split(split)


def _fetched(source: Repository | DatasetSplit, timeout_s: float, watcher: FetchWatcher) -> Repository | DatasetSplit:
    """The source, pinned to the commit that was fetched."""
    watcher.phase(f"fetching {source} from the Hub (MB)")
    snapshot: Snapshot
    if isinstance(source, Repository):
        snapshot = fetch_model(source, watcher.progress, timeout_s)
    else:
        snapshot = fetch_split(source, watcher.progress, timeout_s)
    commit = snapshot.directory.name
    if not snapshot.asked_hub:
        watcher.note(f"the Hub was not asked for {source}: the cache's commit {commit[:12]} is used")
    return source.at(commit)
