"""The directory of one run: who may write to it, which run it holds, and where that run resumes.

config.yaml             resolved configuration
run.json                what outlives a crash before the first checkpoint: ids of the run, digests of models and data
plan.json               the placement of the run's actors
steps.jsonl             one record per step
driver.log              what the screen said
trace.json              who did what when, for https://ui.perfetto.dev
checkpoints/step-000020 checkpoints, see `checkpoints`
undelivered.jsonl       what MLflow has not confirmed yet
stragglers.jsonl        groups that steps did not wait for (rollout.straggler_groups)
rollouts/               texts and verdicts of a few groups per step
model/                  the trained learner, Hugging Face layout
summary.json, figures/  at the end
"""

from __future__ import annotations

import datetime
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from s2l_ray.config import Config
from s2l_ray.config.loading import load_config
from s2l_ray.errors import ConfigError, DataError, S2LError
from s2l_ray.kinds import Dtype
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
    writing_checkpoint,
)
from s2l_ray.run.finished import resuming_overrides
from s2l_ray.run.identity import Contents, differences, learner_of
from s2l_ray.run.lock import RunLock
from s2l_ray.step_log import StepLog
from s2l_ray.tasks.sources import Pin

CONFIGURATION = "config.yaml"
MEMORY = "run.json"
LOCK = ".lock"


class RunDirectory:
    """Holds the directory's lock from `acquire` to `close`, so that two runs never write to one directory."""

    def __init__(self, path: Path, lock: RunLock) -> None:
        self.path = path
        self.log = StepLog(path / STEPS)
        self.in_use: Callable[[], int | None] = lambda: None
        """Gives the step of a checkpoint that has to stay for now, whatever `keep` is; None: all may go."""
        self._lock = lock

    @classmethod
    def acquire(cls, config: Config, on_wait: Callable[[str], None] = lambda message: None) -> RunDirectory:
        """Lock the directory of a run, and remove what an interrupted save left in it.

        Args:
            config: of the run.
            on_wait: told who holds the lock, if that has to be waited for; see `RunLock.acquire`.

        Raises:
            ConfigError: another process is writing to it; or `resume: never` and it holds a run.
            DiskError: the directory cannot be written to.
        """
        path = config.run_path
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = RunLock.acquire(path / LOCK, config.cluster.lock_timeout_s, on_wait)
        run = cls(path, lock)
        if config.resume == "never" and run._configuration.exists():
            run.close()
            raise ConfigError(f"{path} already holds a run and resume is never; choose another run_dir, or resume=auto")
        run._drop_unfinished()
        return run

    def close(self) -> None:
        """Release the lock. A directory that the run did not use is removed. Safe to call twice."""
        with suppress(OSError):
            if [path.name for path in self.path.iterdir()] == [LOCK]:
                (self.path / LOCK).unlink()
                self.path.rmdir()
        self._lock.close()

    # ---- which run it holds -----------------------------------------------------------------------------------------

    @property
    def dtype(self) -> Dtype | None:
        """The type in which the run that it holds began to compute; None if it holds none.

        Raises:
            ConfigError: that run's configuration cannot be read.
        """
        if not self._configuration.exists():
            return None
        dtype = _read_configuration(self._configuration).models.dtype
        return None if dtype == "auto" else dtype

    def adopt(self, config: Config, contents: Contents) -> None:
        """Make it the directory of this run.

        Args:
            config: resolved configuration of the run.
            contents: what the files that it names hold now.

        Raises:
            ConfigError: the directory holds steps of a run with another configuration, or with other contents of its
                files (the differences are named); or its configuration cannot be read.
        """
        if self._configuration.exists():
            before = _read_configuration(self._configuration)
            if differ := differences(before, config, self.remembered().get("contents", {}), contents):
                if self.has_begun:
                    raise ConfigError(self._refusal(differ))
                self._forget()
        write_whole(self._configuration, config.to_yaml())
        self.remember(contents=dict(contents), id=self.remembered().get("id") or uuid.uuid4().hex)

    def remember(self, **values: Any) -> None:
        """Merge values into run.json."""
        write_whole(self.path / MEMORY, json.dumps(self.remembered() | values, indent=2) + "\n")

    def remembered(self) -> dict[str, Any]:
        """Contents of run.json; {} if there is none.

        Raises:
            DataError: it is damaged.
        """
        path = self.path / MEMORY
        return _memory(path) if path.exists() else {}

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, directory) of every whole checkpoint, oldest first."""
        return checkpoints_in(self.path)

    @contextmanager
    def checkpoint(self, step: int, state: Mapping[str, Any], keep: int) -> Iterator[Path]:
        """Write the checkpoint of a step, see `writing_checkpoint`. Once it is whole, all but the newest are removed.

        Args:
            step: after which it is taken.
            state: contents of state.json.
            keep: how many checkpoints stay.

        Raises:
            DiskError: it cannot be written.
            ConfigError: another process has taken the directory over.
        """
        self._lock.check()
        with writing_checkpoint(self.path / "checkpoints" / f"step-{step:06d}", self.log, state) as trainer:
            yield trainer
        for number, old in self.checkpoints[:-keep]:
            if number == self.in_use():
                continue  # it goes with the next one
            with writing(old):
                (old / STATE).unlink()  # first, so that a half-deleted directory is not a checkpoint
                shutil.rmtree(old)

    def to_resume(self, config: Config, contents: Contents) -> Checkpoint | None:
        """The checkpoint that the run resumes from: its own newest, else the one that `resume` names.

        Args:
            config: resolved configuration of the run.
            contents: what the files that it names hold now.

        Returns:
            None if the run begins at its first step.

        Raises:
            ConfigError: `resume` names no whole checkpoint, and no directory of a run that has one; or the checkpoint
                is one of another learner, or of a step after the last one of `schedule.steps`.
            DataError: it is damaged.
        """
        if self.checkpoints:
            directory = self.checkpoints[-1][1]
        elif config.resume in ("auto", "never"):
            return None
        else:
            directory = named_checkpoint(config.resume)
        found, steps = read_checkpoint(directory, learner_of(config, contents)), config.schedule.steps
        if found.step > steps:
            raise ConfigError(
                f"schedule.steps is {steps}, but {directory} is of step {found.step}; set schedule.steps to "
                f"{found.step} or more, or choose another run_dir"
            )
        return found

    def _drop_unfinished(self) -> None:
        """Remove what a run that ended while it saved left behind: it takes space and is not a checkpoint."""
        for directory in (self.path / "checkpoints").glob("step-*"):
            if not (directory / STATE).exists():
                shutil.rmtree(directory, ignore_errors=True)

    @property
    def _configuration(self) -> Path:
        return self.path / CONFIGURATION

    @property
    def has_begun(self) -> bool:
        """Whether the run that it holds has steps, which another run would overwrite."""
        return bool(self.checkpoints) or (self.log.path.exists() and self.log.path.stat().st_size > 0)

    def _forget(self) -> None:
        """Drop what a run that did not finish a single step left for its resumption."""
        self.remember(mlflow_run_id=None, mlflow_uri=None, id=None)
        (self.path / STRAGGLERS).unlink(missing_ok=True)

    def _refusal(self, differ: list[str]) -> str:
        more = f"; and {len(differ) - 5} more" if len(differ) > 5 else ""
        text = (
            f"{self.path} holds another run ({'; '.join(differ[:5])}{more}). Restore what has changed, or choose "
            "another name or run_dir"
        )
        if self.checkpoints:
            overrides = resuming_overrides(self.path)
            text += f". To train on from this run's last checkpoint as things are now: {overrides}"
        return text


def begun_on(config: Config) -> datetime.date | None:
    """data.date of the run that a run with this configuration resumes; None if it resumes none, or that has none.

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
    return datetime.date.fromisoformat(date) if date else None


def pins_of(path: Path) -> dict[str, Pin]:
    """What the run that a directory holds took from the Hub, by key; {} if it holds none.

    Raises:
        DataError: run.json is damaged.
    """
    memory = path / MEMORY
    pins = _memory(memory).get("hub", {}) if memory.exists() else {}
    try:
        return {key: Pin(str(pin["asked"]), str(pin["pinned"])) for key, pin in pins.items()}
    except (AttributeError, KeyError, TypeError):
        raise DataError(
            f"{memory} is damaged (hub: {pins!r:.80}); restore it, or remove its `hub`: the run then takes the commits "
            "at which its branches are now"
        ) from None


def _memory(path: Path) -> dict[str, Any]:
    return read_json(path, "remove it: the run then continues in a new MLflow run")


def _read_configuration(path: Path) -> Config:
    try:
        return load_config(path)
    except S2LError as error:
        raise ConfigError(
            f"the configuration of the run that {path.parent} holds cannot be read; restore the file, or choose "
            f"another run_dir: {error}"
        ) from None
