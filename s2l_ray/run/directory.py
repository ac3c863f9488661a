"""The directory of one run: who may write to it, what it holds, and where a killed run goes on.

config.yaml             resolved configuration
run.json                what outlives a crash before the first checkpoint: the MLflow run id, digests of models and data
steps.jsonl             one record per step
trace.json              who did what when, for https://ui.perfetto.dev
checkpoints/step-000020 whole checkpoints: `trainer/`, the log of steps, and `state.json`, without which it is not one
stragglers.jsonl          groups that were left out (rollout.straggler_groups)
rollouts/               texts and verdicts of a few groups per step
model/                  the trained learner, Hugging Face layout
summary.json, figures/  at the end
"""

from __future__ import annotations

import datetime
import fcntl
import json
import shlex
import shutil
from pathlib import Path
from typing import IO, Any

from s2l_ray.config import Config, load_config
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.machine.disk import read_json, write_whole, writing
from s2l_ray.rollouts.stragglers import STRAGGLERS
from s2l_ray.run.checkpoints import (
    STATE,
    STEPS,
    Checkpoint,
    checkpoints_in,
    named_checkpoint,
    read_checkpoint,
    read_state,
    write_state,
)
from s2l_ray.run.identity import Contents, differences, learner_of
from s2l_ray.step_log import StepLog

CONFIGURATION = "config.yaml"
MEMORY = "run.json"


class RunDirectory:
    """Holds the directory's lock for as long as it lives, so that two runs never write to one directory."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self.log = StepLog(path / STEPS)
        self.learner: dict[str, Any] = {}
        """What the states of its checkpoints belong to, from `adopt` on."""
        self._lock = lock

    @classmethod
    def claim(cls, config: Config) -> RunDirectory:
        """Lock the run's directory.

        Raises:
            ConfigError: another process is writing to it; or `resume: never` and it holds a run.
            DiskError: the directory cannot be written to.
        """
        path = config.run_path
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is writing to {path}; wait for it, or choose another run_dir") from None
        run = cls(path, lock)
        if config.resume == "never" and run._configuration.exists():
            raise ConfigError(f"{path} already holds a run and resume is never; choose another run_dir, or resume=auto")
        run._drop_unfinished()
        return run

    @property
    def dtype(self) -> str | None:
        """The type in which the run that it holds began to compute; None when it holds none.

        Raises:
            ConfigError: that run's configuration cannot be read.
        """
        return _read_configuration(self._configuration).models.dtype if self._configuration.exists() else None

    def adopt(self, config: Config, contents: Contents) -> None:
        """Be the directory of this run from now on.

        Args:
            contents: of the configuration's files as they are now.

        Raises:
            ConfigError: it holds steps of a run that was configured otherwise, or whose files held something else (what
                differs is named), or it cannot be told.
        """
        if self._configuration.exists():
            before = _read_configuration(self._configuration)
            if differ := differences(before, config, self.remembered().get("contents", {}), contents):
                if self._has_begun:
                    raise ConfigError(self._refusal(differ))
                self._forget()
        write_whole(self._configuration, config.to_yaml())
        self.remember(contents=dict(contents))
        self.learner = learner_of(config, contents)

    @property
    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, directory) of every whole checkpoint, oldest first."""
        return checkpoints_in(self.path)

    def to_resume(self, config: Config) -> Checkpoint | None:
        """What the run goes on from: its own newest checkpoint, else the one that `resume` names; None: it begins.

        Raises:
            ConfigError: `resume` names no whole checkpoint, and no directory of a run that has one; or the checkpoint
                is of another learner, or of a later step than the last one of `schedule.steps`.
            DataError: it is damaged.
        """
        if self.checkpoints:
            directory = self.checkpoints[-1][1]
        elif config.resume in ("auto", "never"):
            return None
        else:
            directory = named_checkpoint(config.resume)
        found, steps = read_checkpoint(directory, self.learner), config.schedule.steps
        if found.step > steps:
            raise ConfigError(
                f"schedule.steps is {steps}, but {directory} is of step {found.step}; set schedule.steps to "
                f"{found.step} or more, or choose another run_dir"
            )
        return found

    def _drop_unfinished(self) -> None:
        """What a run that ended while it saved left behind: it takes room, and is no checkpoint."""
        for directory in (self.path / "checkpoints").glob("step-*"):
            if not (directory / STATE).exists():
                shutil.rmtree(directory, ignore_errors=True)

    def begin_checkpoint(self, step: int) -> Path:
        """An empty directory to write the checkpoint of `step` into; nothing counts until `commit_checkpoint`."""
        target = self.path / "checkpoints" / f"step-{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        with writing(target):
            target.mkdir(parents=True)
        return target

    def commit_checkpoint(self, target: Path, state: dict[str, Any], keep: int) -> None:
        """Make it whole, in one rename, and drop all but the `keep` newest."""
        write_state(target, state)
        for _, old in self.checkpoints[:-keep]:
            with writing(old):
                (old / STATE).unlink()  # first, so that a half-deleted directory is not a checkpoint
                shutil.rmtree(old)

    def remember(self, **values: Any) -> None:
        """Merge values into run.json."""
        write_whole(self.path / MEMORY, json.dumps(self.remembered() | values, indent=2) + "\n")

    def remembered(self) -> dict[str, Any]:
        """What run.json holds.

        Raises:
            DataError: it is damaged.
        """
        path = self.path / MEMORY
        remedy = "remove it: the run then goes on in an MLflow run of its own"
        return read_json(path, remedy) if path.exists() else {}

    def close(self) -> None:
        """Give the directory free."""
        self._lock.close()

    @property
    def _configuration(self) -> Path:
        return self.path / CONFIGURATION

    @property
    def _has_begun(self) -> bool:
        """Whether there is a step that would be lost, or gone on from."""
        return bool(self.checkpoints) or (self.log.path.exists() and self.log.path.stat().st_size > 0)

    def _forget(self) -> None:
        """No step was done: what is there is of an attempt at another run."""
        self.remember(mlflow_run_id=None)
        (self.path / STRAGGLERS).unlink(missing_ok=True)

    def _refusal(self, differ: list[str]) -> str:
        more = f"; and {len(differ) - 5} more" if len(differ) > 5 else ""
        text = (
            f"{self.path} holds another run ({'; '.join(differ[:5])}{more}). Restore what has changed, or choose "
            "another name or run_dir"
        )
        if self.checkpoints:
            text += f". To train on from this run's last checkpoint as things are now: {_to_go_on(self.path)}"
        return text


def next_free(config: Config) -> tuple[Config, str | None]:
    """The configuration with a run directory that a run may start or go on in.

    When outputs/NAME holds a finished run, outputs/NAME-2 is next, and so on: nothing that was produced is overwritten.

    Returns:
        The configuration, and what is worth saying about it.

    Raises:
        ConfigError: `run_dir` was given and holds a finished run.
    """
    first, path, number = config.run_path, config.run_path, 1
    if not _is_finished(first):
        return config, None
    on = f"To train on from its end: {_to_go_on(first, config)}"
    if config.run_dir is not None:
        raise ConfigError(f"{first} already holds a finished run; choose another run_dir. {on}")
    while _is_finished(path):
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    here = config.model_copy(update={"run_dir": str(path)})
    return here, f"{first} holds a finished run; this one is in {path}." + ("" if config.resume != "auto" else f" {on}")


def _is_finished(path: Path) -> bool:
    return (path / "summary.json").exists()


def begun_on(config: Config) -> datetime.date | None:
    """data.date of the run that a run with this configuration goes on with; None: it has none, or nothing goes on.

    Raises:
        ConfigError: `resume` names no whole checkpoint, or the directory's config.yaml cannot be read.
        DataError: the checkpoint is damaged.
    """
    before = config.run_path / CONFIGURATION
    if before.exists():
        return _read_configuration(before).data.date
    if config.resume in ("auto", "never"):
        return None
    date = read_state(named_checkpoint(config.resume)).get("date")
    return date and datetime.date.fromisoformat(date)


def _read_configuration(path: Path) -> Config:
    try:
        return load_config(path)
    except S2LError as error:
        raise ConfigError(
            f"the configuration of the run that {path.parent} holds cannot be read; restore the file, or choose "
            f"another run_dir: {error}"
        ) from None


def _to_go_on(path: Path, config: Config | None = None) -> str:
    """Overrides that train on from a run's newest checkpoint in a directory of their own.

    Args:
        config: of what was asked for, where the run is finished: it then takes more steps than it had.
    """
    words = [f"resume={path}", f"run_dir={path}-more"]
    if config is not None:
        done = checkpoints_in(path)[-1][0] if checkpoints_in(path) else 0
        words.append(f"schedule.steps={config.schedule.steps if config.schedule.steps > done else 2 * done}")
    return shlex.join(words)
