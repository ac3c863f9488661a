"""Runs that are finished: nothing that they produced is overwritten, and how to train on from their end."""

from __future__ import annotations

import shlex
from pathlib import Path

from s2l_ray.config import Config
from s2l_ray.config.dotted import flat
from s2l_ray.errors import ConfigError
from s2l_ray.run.checkpoints import checkpoints_in
from s2l_ray.run.earlier import CONFIGURATION, pins_of, read_configuration
from s2l_ray.run.identity import is_same_run
from s2l_ray.run.inputs import with_absolute_paths
from s2l_ray.run.mirror import SUMMARY, Mirror, answered


def next_free(config: Config) -> tuple[Config, str | None]:
    """The configuration with a run directory in which a run may start or resume.

    When outputs/NAME holds a finished run, outputs/NAME-2 is next, and so on.

    Returns:
        The configuration, and a notice for the user if the directory is another one than the configuration's.

    Raises:
        ConfigError: `run_dir` was given and holds a finished run.
        StorageError: checkpoint.mirror cannot be read.
    """
    first, path, number = config.run_path, config.run_path, 1
    if not _is_finished(config, first):
        return config, None
    where, on = str(first), f"To train on from its end: {resuming_overrides(first, config)}"
    if not (first / SUMMARY).exists():
        where = f"{(config.checkpoint.mirror or '').partition('?')[0]}/{first.name}"
        on = f"To train on from its end, copy that to {first} first"
    if config.run_dir is not None:
        raise ConfigError(f"{where} already holds a finished run; choose another run_dir. {on}")
    while _is_finished(config, path):
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    here = config.model_copy(update={"run_dir": str(path)})
    return here, f"{where} holds a finished run; this one is in {path}." + ("" if config.resume != "auto" else f" {on}")


def done_already(config: Config) -> str | None:
    """What to say where `run_dir` was given and holds this very run, finished; None where there is something to do.

    A job that is started again after its end has nothing to do. That is no error, else Kubernetes and batch systems
    would take the run for failed and start it again. Settings are compared, not the contents of data files and models.

    Raises:
        ConfigError, DataError: what the directory says of its run is damaged.
        StorageError: checkpoint.mirror cannot be read.
    """
    path, mirror = config.run_path, config.checkpoint.mirror
    is_there = (path / SUMMARY).exists() and (path / CONFIGURATION).exists()
    if config.run_dir is None or config.resume == "never" or not is_there:
        return None
    before, pins = read_configuration(path / CONFIGURATION), pins_of(path)
    there, asked = flat(before.model_dump(mode="json")), flat(with_absolute_paths(config).model_dump(mode="json"))
    # A run settles its date, its type and the commits of branches by itself.
    settled = {key for key in ("data.date", "models.dtype") if asked[key] in (None, "auto")}
    settled |= {key for key, pin in pins.items() if asked.get(key) == pin.asked}
    same = is_same_run(there, asked | {key: there.get(key) for key in settled})
    begun_alike = config.resume in {"auto", before.resume}
    if not same or not begun_alike or before.schedule.steps != config.schedule.steps:
        return None
    if mirror is not None and not answered(mirror, lambda go_on: Mirror(mirror, path.name).is_finished()):
        return None
    return (
        f"{path} holds this run, finished after {before.schedule.steps} steps; there is nothing to do. To train on "
        f"from its end: {resuming_overrides(path, config)}"
    )


def resuming_overrides(path: Path, config: Config | None = None) -> str:
    """Overrides that train on from a run's newest checkpoint, in a directory of their own, quoted for a shell.

    Args:
        path: directory of the run.
        config: the configuration that was asked for, if the run is finished: it then takes more steps than it had.
    """
    words = [f"resume={path}", f"run_dir={path}-more"]
    if config is not None:
        done = checkpoints_in(path)[-1][0] if checkpoints_in(path) else 0
        words.append(f"schedule.steps={config.schedule.steps if config.schedule.steps > done else 2 * done}")
    return shlex.join(words)


def _is_finished(config: Config, path: Path) -> bool:
    """Whether a run directory holds a finished run; or, where it holds none, its mirror does."""
    url = config.checkpoint.mirror
    if (path / SUMMARY).exists() or url is None or (path / "config.yaml").exists():
        return (path / SUMMARY).exists()
    return answered(url, lambda go_on: Mirror(url, path.name).is_finished())
