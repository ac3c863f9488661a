"""What a run takes from its mirror before it starts: the newest checkpoint, where its run directory has none as new."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError
from s2l_ray.rollouts.stragglers import STRAGGLERS
from s2l_ray.run.checkpoints import CHECKPOINTS, place_of
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.earlier import CONFIGURATION, MEMORY
from s2l_ray.run.identity import changed_settings, trained_with
from s2l_ray.run.lineage import LINEAGE
from s2l_ray.run.mirror import KEY, DamagedCopyError, Mirror, answered


def open_mirror(config: Config) -> Mirror | None:
    """The mirror of a run, which has been written to and read; None if it has none.

    Raises:
        StorageError: it cannot be used; with the reason.
    """
    url = config.checkpoint.mirror
    if url is None:
        return None
    return answered(url, lambda go_on: _checked(Mirror(url, config.run_path.name)))


def fetch(
    mirror: Mirror,
    directory: RunDirectory,
    config: Config,
    say: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Take the run's newest checkpoint from the mirror, unless the directory has one as new.

    One that is damaged there is said and left out, as long as an older one is whole, there or here. A directory that
    holds no run gets the files by which it is known whether it is the same run, too.

    Args:
        mirror: of the run.
        directory: locked.
        config: of the run.
        say: told what is under way.
        note: told of damaged checkpoints.

    Raises:
        ConfigError: the mirror holds another run than the directory; or `resume: never` and it holds one.
        StorageError: it cannot be read; or all of its checkpoints are damaged, and there is none here.
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
    newer = answered(str(mirror), lambda go_on: _newer(mirror, directory, config))
    damaged: list[DamagedCopyError] = []
    for name in newer:
        say(f"fetching checkpoint {name} from {mirror}")
        try:
            _fetch_one(mirror, directory, name)
        except DamagedCopyError as error:
            damaged.append(error)
            note(f"{name} of the mirror is not resumed from: {error}; remove {mirror}/{CHECKPOINTS}/{name}")
        else:
            return
    if damaged and not directory.checkpoints:
        raise damaged[0]


def _fetch_one(mirror: Mirror, directory: RunDirectory, name: str) -> None:
    target = directory.path / CHECKPOINTS / name
    answered(str(mirror), lambda go_on: mirror.download((LINEAGE,), directory.path, go_on))
    try:
        answered(str(mirror), lambda go_on: mirror.download_checkpoint(name, target, go_on))
    except DamagedCopyError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _newer(mirror: Mirror, directory: RunDirectory, config: Config) -> list[str]:
    """The mirror's checkpoints of these settings (see `Branches.newest_of`) that are newer than all here, newest first.

    One whose state.json is damaged counts as one of these settings.
    """
    own, now = directory.branches.newest_of(config), trained_with(config)
    found = []
    for name in reversed(mirror.checkpoints()):
        if own is not None and (place_of(name) or (0, 0)) <= (place_of(own.name) or (0, 0)):
            break
        try:
            settings = mirror.state_of(name).get("settings", {})
        except DamagedCopyError:
            settings = {}
        if not changed_settings(settings, now):
            found.append(name)
    return found


def _checked(mirror: Mirror) -> Mirror:
    mirror.check()
    return mirror
