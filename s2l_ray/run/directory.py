"""The directory of one run: who may write to it, which run it holds, and where that run resumes.

config.yaml             resolved configuration
run.json                what outlives a crash before the first checkpoint: ids of the run, digests of models and data
plan.json               the placement of the run's actors
steps.jsonl             one record per step
lineage.jsonl           of a trial of Ray Tune: whose states it was given, see `lineage`
steps-branch-0.jsonl    of a trial: the steps that it had when it was given another trial's state
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

import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.kinds import Dtype
from s2l_ray.machine.disk import write_whole, writing
from s2l_ray.rollouts.stragglers import STRAGGLERS
from s2l_ray.run.branches import Branches
from s2l_ray.run.checkpoints import (
    CHECKPOINTS,
    PARTIAL,
    STATE,
    STEPS,
    Checkpoint,
    CheckpointDraft,
    checkpoints_in,
    is_of_learner,
    named_checkpoint,
    place_of,
    read_checkpoint,
    read_state,
)
from s2l_ray.run.earlier import CONFIGURATION, MEMORY, read_configuration, read_memory
from s2l_ray.run.finished import resuming_overrides
from s2l_ray.run.identity import (
    Contents,
    all_that_differ,
    changed_settings,
    differences,
    learner_of,
    trained_with,
)
from s2l_ray.run.lock import RunLock
from s2l_ray.run.trial_terms import TrialTerms
from s2l_ray.step_log import StepLog

LOCK = ".lock"
DONATED = ".donated"
"""A checkpoint of another run, for as long as it takes to load it."""


class RunDirectory:
    """Holds the directory's lock from `acquire` to `close`, so that two runs never write to one directory."""

    def __init__(self, path: Path, lock: RunLock, terms: TrialTerms | None = None) -> None:
        self.path = path
        self.log = StepLog(path / STEPS)
        self.branches = Branches(path, terms is not None)
        self.in_use: Callable[[], str | None] = lambda: None
        """Gives the name of a checkpoint that has to stay for now, whatever `keep` is; None: all may go."""
        self.found_whole: Path | None = None
        """A checkpoint all of whose files were read and found whole since the directory was locked."""
        self._terms = terms
        self._lock = lock
        self._spared: Set[str] = frozenset()

    @classmethod
    def acquire(
        cls,
        config: Config,
        on_wait: Callable[[str], None] = lambda message: None,
        terms: TrialTerms | None = None,
    ) -> RunDirectory:
        """Lock the directory of a run.

        Args:
            config: of the run.
            on_wait: told who holds the lock, if that has to be waited for; see `RunLock.acquire`.
            terms: of the trial of Ray Tune that the run is, if it is one. Whoever holds its lock is ending then.

        Raises:
            ConfigError: another process is writing to it; or `resume: never` and it holds a run.
            DiskError: the directory cannot be written to.
        """
        path = config.run_path
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        timeout_s, is_trial = config.cluster.lock_timeout_s, terms is not None
        if is_trial:  # the actor that had the trial before may still copy what is left to the mirror
            timeout_s += config.checkpoint.mirror_timeout_s
        lock = RunLock.acquire(path / LOCK, timeout_s, on_wait, holder_ends=is_trial)
        run = cls(path, lock, terms)
        if config.resume == "never" and run._configuration.exists():
            run.close()
            raise ConfigError(f"{path} already holds a run and resume is never; choose another run_dir, or resume=auto")
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
        dtype = read_configuration(self._configuration).models.dtype
        return None if dtype == "auto" else dtype

    def adopt(self, config: Config, contents: Contents) -> None:
        """Make it the directory of this run, and remove what an interrupted save left in it.

        Args:
            config: resolved configuration of the run.
            contents: what the files that it names hold now.

        Raises:
            ConfigError: the directory holds steps of a run with another configuration, or with other contents of its
                files (the differences are named; a trial may differ as its terms say); or its configuration cannot be
                read.
        """
        if self._configuration.exists():
            before, known = read_configuration(self._configuration), self.remembered().get("contents", {})
            judge = self._terms.judge if self._terms else all_that_differ
            if differ := differences(before, config, known, contents, judge):
                if self.has_begun:
                    raise ConfigError(self._refusal(differ, learner_of(config, contents)))
                self._forget()
        self._drop_unfinished()
        write_whole(self._configuration, config.to_yaml())
        self.remember(
            contents=dict(contents),
            id=self.remembered().get("id") or uuid.uuid4().hex,
            mirror=(config.checkpoint.mirror or "").partition("?")[0],
        )

    def refuse_other_mirror(self, config: Config) -> None:
        """Refuse a trial that would go on with what a trial of another study, in another store, has left here.

        Raises:
            ConfigError: it would.
        """
        before, now = self.remembered().get("mirror"), (config.checkpoint.mirror or "").partition("?")[0]
        if self._terms and self.has_begun and before not in (None, "", now):
            raise ConfigError(
                f"{self.path} holds a trial whose mirror is {before}, and this one's is {now}; choose another name, or "
                f"remove {self.path}"
            )

    def remember(self, **values: Any) -> None:
        """Merge values into run.json."""
        write_whole(self.path / MEMORY, json.dumps(self.remembered() | values, indent=2) + "\n")

    def remembered(self) -> dict[str, Any]:
        """Contents of run.json; {} if there is none.

        Raises:
            DataError: it is damaged.
        """
        path = self.path / MEMORY
        return read_memory(path) if path.exists() else {}

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, directory) of every whole checkpoint, oldest first."""
        return checkpoints_in(self.path)

    def begin_checkpoint(self, step: int, state: Mapping[str, Any]) -> CheckpointDraft:
        """Begin to write the checkpoint of a step.

        Args:
            step: after which it is taken.
            state: contents of state.json.

        Raises:
            DiskError: it cannot be written.
            ConfigError: another process has taken the directory over.
        """
        self.check_lock()
        return CheckpointDraft(self.branches.checkpoint_of(step), state)

    def check_lock(self) -> None:
        """Make sure that the directory is still this process's.

        Raises:
            ConfigError: another process has taken it over.
        """
        self._lock.check()

    def prune(self, keep: int) -> None:
        """Remove all whole checkpoints but the newest `keep`, those that Tune may still ask for, and spared ones.

        Raises:
            DiskError: one cannot be removed.
        """
        if too_many := [directory for _, directory in self.checkpoints[:-keep]]:
            self._remove(too_many)

    def spare_checkpoints(self, all_of_them: bool) -> None:
        """Whether the checkpoints that there are now stay for the time being: the next ones may be of no use."""
        self._spared = {directory.name for _, directory in self.checkpoints} if all_of_them else frozenset()

    def pointed(self) -> Set[str]:
        """The names of checkpoints that stay, however many there are: spared ones, and see `TrialTerms.pointed`."""
        return self._spared | self._terms.pointed() if self._terms else self._spared

    def _remove(self, checkpoints: list[Path]) -> None:
        try:
            stay = self.pointed()
        except StorageError:
            return  # what Tune may ask for is not known now; they go with the next one
        for old in checkpoints:
            if old.name in stay or old.name == self.in_use():
                continue
            with writing(old):
                (old / STATE).unlink()  # first, so that a half-deleted directory is not a checkpoint
                shutil.rmtree(old)

    def to_resume(self, config: Config, contents: Contents) -> Checkpoint | None:
        """The checkpoint that the run resumes from: its own newest, else the one that `resume` names.

        Args:
            config: resolved configuration of the run.
            contents: what the files that it names hold now.

        Returns:
            None if the run begins at its first step. A trial of Ray Tune whose settings have changed since all of its
            checkpoints does that, too; Tune then says what to load.

        Raises:
            ConfigError: `resume` names no whole checkpoint, and no directory of a run that has one; or the checkpoint
                is one of another learner, or of a step after the last one of `schedule.steps`.
            DataError: it is damaged.
        """
        if self.checkpoints:
            if (own := self.branches.newest_of(config)) is None:
                self._refuse_other_settings(config)
                return None
            directory = own
        elif config.resume in ("auto", "never"):
            return None
        else:
            directory = named_checkpoint(config.resume)
        learner, steps = learner_of(config, contents), config.schedule.steps
        found = read_checkpoint(directory, learner, checked=directory == self.found_whole)
        if found.step > steps:
            raise ConfigError(
                f"schedule.steps is {steps}, but {directory} is of step {found.step}; set schedule.steps to "
                f"{found.step} or more, or choose another run_dir"
            )
        return found

    def _refuse_other_settings(self, config: Config) -> None:
        """Refuse a run whose own checkpoints are all of other settings, unless it is a trial."""
        if self._terms is None:
            newest = self.checkpoints[-1][1]
            changed = changed_settings(read_state(newest)["settings"], trained_with(config))
            words = "; ".join(f"{key} was {before!r}, now {now!r}" for key, (before, now) in changed.items())
            raise ConfigError(
                f"{newest} was trained with other settings ({words}): Ray Tune had just changed them when the trial "
                f"ended. Let Tune restore the trial, or train on as things are now: {resuming_overrides(self.path)}"
            )

    def _drop_unfinished(self) -> None:
        """Remove what a run that ended while it saved or loaded left: it takes space and is not a checkpoint."""
        shutil.rmtree(self.path / DONATED, ignore_errors=True)
        for directory in (self.path / CHECKPOINTS).glob("step-*"):
            if place_of(directory.name) is not None:  # other names are the user's
                unfinished = directory / PARTIAL if (directory / STATE).exists() else directory
                shutil.rmtree(unfinished, ignore_errors=True)

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

    def _refusal(self, differ: list[str], learner: dict[str, Any]) -> str:
        more = f"; and {len(differ) - 5} more" if len(differ) > 5 else ""
        text = (
            f"{self.path} holds another run ({'; '.join(differ[:5])}{more}). Restore what has changed, or choose "
            "another name or run_dir"
        )
        if self.checkpoints:
            if is_of_learner(self.checkpoints[-1][1], learner):
                overrides = resuming_overrides(self.path)
                text += f". To train on from this run's last checkpoint as things are now: {overrides}"
            else:
                text += ". Its checkpoints are of another learner, which this run cannot train on from"
        return text
