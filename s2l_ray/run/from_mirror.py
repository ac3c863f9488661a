"""What a run takes from its mirror before it starts: the newest checkpoint, where its run directory has none as new."""

from __future__ import annotations

from collections.abc import Callable

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError
from s2l_ray.rollouts.stragglers import STRAGGLERS
from s2l_ray.run.checkpoints import CHECKPOINTS, place_of
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.earlier import CONFIGURATION, MEMORY
from s2l_ray.run.identity import changed_settings, trained_with
from s2l_ray.run.lineage import LINEAGE
from s2l_ray.run.mirror import KEY, Mirror, answered


def open_mirror(config: Config) -> Mirror | None:
    """The mirror of a run, which has been written to and read; None if it has none.

    Raises:
        StorageError: it cannot be used; with the reason.
    """
    url = config.checkpoint.mirror
    if url is None:
        return None
    return answered(url, lambda go_on: _checked(Mirror(url, config.run_path.name)))


def fetch(mirror: Mirror, directory: RunDirectory, config: Config, say: Callable[[str], None]) -> None:
    """Take the run's newest checkpoint from the mirror, unless the directory has one as new.

    A directory that holds no run gets the files by which it is known whether it is the same run, too.

    Args:
        mirror: of the run.
        directory: locked.
        config: of the run.
        say: told what is under way.

    Raises:
        ConfigError: the mirror holds another run than the directory; or `resume: never` and it holds one.
        StorageError: it cannot be read.
        DiskError: the directory cannot be written to.
    """
    there = answered(str(mirror), lambda go_on: mirror.read_json(MEMORY))
    if not there:
        directory.refuse_other_mirror(config)
        return
    if config.resume == "never":
        raise ConfigError(
            f"{mirror} already holds a run and resume is never; choose another run_dir or {KEY}, or resume=auto"
        )
    here = directory.remembered()
    if directory.has_begun:
        if here.get("id") != there.get("id"):
            raise ConfigError(
                f"{directory.path} and {mirror} hold different runs; choose another {KEY}, or another name or run_dir"
            )
    else:
        names = (MEMORY, STRAGGLERS, CONFIGURATION)  # the last one is what makes it a run's directory
        answered(str(mirror), lambda go_on: mirror.download(names, directory.path, go_on))
    newest = answered(str(mirror), lambda go_on: _newer(mirror, directory, config))
    if newest is not None:
        say(f"fetching checkpoint {newest} from {mirror}")
        target = directory.path / CHECKPOINTS / newest
        answered(str(mirror), lambda go_on: mirror.download((LINEAGE,), directory.path, go_on))
        answered(str(mirror), lambda go_on: mirror.download_checkpoint(newest, target, go_on))


def _newer(mirror: Mirror, directory: RunDirectory, config: Config) -> str | None:
    """The mirror's newest checkpoint of these settings (see `Branches.newest_of`), if it is newer than all here."""
    own, now = directory.branches.newest_of(config), trained_with(config)
    for name in reversed(mirror.checkpoints()):
        if own is not None and (place_of(name) or (0, 0)) <= (place_of(own.name) or (0, 0)):
            return None
        if not changed_settings(mirror.state_of(name).get("settings", {}), now):
            return name
    return None


def _checked(mirror: Mirror) -> Mirror:
    mirror.check()
    return mirror
