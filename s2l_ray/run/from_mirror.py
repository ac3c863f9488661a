"""What a run takes from its mirror before it starts: the newest checkpoint, where its run directory has none as new."""

from __future__ import annotations

from collections.abc import Callable

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError
from s2l_ray.rollouts.stragglers import STRAGGLERS
from s2l_ray.run.directory import CONFIGURATION, MEMORY, RunDirectory
from s2l_ray.run.mirror import CHECKPOINTS, KEY, Mirror, answered, step_name


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
    there, steps = answered(str(mirror), lambda go_on: (mirror.read_json(MEMORY), mirror.steps()))
    if not there:
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
    own = directory.checkpoints[-1][0] if directory.checkpoints else 0
    if steps and steps[-1] > own:
        newest = steps[-1]
        say(f"fetching the checkpoint of step {newest} from {mirror}")
        target = directory.path / CHECKPOINTS / step_name(newest)
        answered(str(mirror), lambda go_on: mirror.download_checkpoint(newest, target, go_on))


def _checked(mirror: Mirror) -> Mirror:
    mirror.check()
    return mirror
