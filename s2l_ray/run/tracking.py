"""Who hears of what happens in a run: MLflow, and the reporter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from s2l_ray.config import Config, TrackingConfig
from s2l_ray.errors import S2LError, TrackingError
from s2l_ray.kinds import TrackedStatus
from s2l_ray.redaction import redact
from s2l_ray.reporter import Reporter
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.run.description import describe
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.extras import AfterStep, extras
from s2l_ray.run.inputs import Inputs
from s2l_ray.run.lineage import Branch
from s2l_ray.run.notices import notices
from s2l_ray.tracking.mlflow_store import locate
from s2l_ray.tracking.opening import NoParentError
from s2l_ray.tracking.tracker import NoTracker, Tracker, open_tracker

TRIAL_STATUS = "s2l.trial_status"
"""Tag of an MLflow run: "pruned" where the scheduler of a study ended it."""

if TYPE_CHECKING:
    from s2l_ray.bank.rollout_bank import BankSettings


class RunTracking:
    """Passes steps, evaluations and files on to MLflow and the reporter. Leaving it ends the MLflow run.

    Args:
        tracker: the MLflow run.
        reporter: shows what happens.
        remember: told that the run was "pruned", or has "failed", for those who log it in MLflow later.
    """

    def __init__(
        self, tracker: Tracker, reporter: Reporter, remember: Callable[[str], None] = lambda ended: None
    ) -> None:
        self.tracker = tracker
        self.reporter = reporter
        self.finished = False
        """Whether the run has got to its end; set by the run."""
        self.failed = False
        """Whether its last step raised an error; set by the run. Who ends the run may not see that, such as Tune."""
        self._pruned = False
        self._remember = remember
        self._problem: str | None = None
        self._checkpoints: set[str] = set()
        self._extras: list[AfterStep] = []

    @classmethod
    def open(
        cls, settings: Config, directory: RunDirectory, inputs: Inputs, bank: BankSettings | None, reporter: Reporter
    ) -> RunTracking:
        """Start an MLflow run, or continue the one that the directory remembers, and log what the run is made of.

        A run that is nested under another goes on without MLflow if the store, which its parent has been in, does not
        answer now: many such runs start one after the other, and a server that is away is to stop none of them.

        Raises:
            TrackingError: the MLflow store cannot be used.
            DataError: run.json is damaged.
        """

        def remember(ended: str) -> None:
            directory.remember(ended=ended)

        remembered = directory.remembered()
        config = where_it_was_tracked(settings.tracking, remembered.get("mlflow_uri"))
        try:
            tracker = open_tracker(config, directory.path, settings.name, remembered.get("mlflow_run_id"))
        except TrackingError as error:
            if config.parent_run is None or isinstance(error, NoParentError):
                raise
            reporter.note(f"not tracked for now: {error}. s2l track {directory.path} logs this run when it is over")
            directory.remember(ended=None)
            return cls(NoTracker(), reporter, remember)
        tracking = cls(tracker, reporter, remember)
        try:
            directory.remember(ended=None)
            if tracker.run_id is not None:  # else a run that `s2l track` has made stays the run's own
                directory.remember(mlflow_run_id=tracker.run_id, mlflow_uri=tracker.uri)
            describe(tracker, settings, inputs, bank)
            tracking._extras = extras(settings, directory.path, tracker)
        except BaseException as error:  # nobody else can end it yet
            tracking.__exit__(type(error), error, None)
            raise
        return tracking

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the MLflow run as FINISHED, as KILLED if it was stopped before its end, or as FAILED.

        What MLflow did not take becomes a note: it must not hide an error on the way out, and results are on disk.
        """
        stopped = (error is None and not self.failed) or isinstance(error, KeyboardInterrupt)
        ended_well = self.finished or (self._pruned and stopped)
        status: TrackedStatus = "FINISHED" if ended_well else "KILLED" if stopped else "FAILED"
        if status == "FAILED":
            self._ended("failed")
        try:
            self.tracker.finish(status, brief=self._pruned)
        except TrackingError as undelivered:
            self.reporter.note(str(undelivered))

    def pruned(self) -> None:
        """Take in that a scheduler has ended the run before its last step, since others do better.

        The MLflow run is then FINISHED, with a tag that says so: nothing went wrong.
        """
        self._pruned = True
        self._ended("pruned")
        self.tracker.set_tags({TRIAL_STATUS: "pruned"})

    def _ended(self, how: str) -> None:
        with suppress(S2LError):  # a full disk must not hide an error on the way out
            self._remember(how)

    def step(self, records: Sequence[StepRecord]) -> None:
        """Pass on a step that has ended, and say what is notable about it.

        Args:
            records: one for each step so far; the last is the one to pass on.
        """
        if self.tracker.log_step(records[-1]):
            for log in self._extras:
                log(records[-1].step)
        self.reporter.step(records[-1])
        for notice in notices(records):
            self.reporter.note(notice)
        if self.tracker.problem != self._problem:
            self._problem = self.tracker.problem
            self.reporter.note(self._problem or "MLflow answers again; everything was delivered")

    def models(self, checkpoints: Sequence[tuple[int, Path]]) -> None:
        """Pass on which checkpoints, (step, directory), there are now: each is a model that MLflow shows."""
        now = {path.name: (step, path) for step, path in checkpoints}
        for name in self._checkpoints - now.keys():
            self.tracker.forget_model(name)
        for name in sorted(now.keys() - self._checkpoints):
            step, path = now[name]
            self.tracker.log_model(name, step, {"path": str(path), "kind": "checkpoint"})
        self._checkpoints = set(now)

    def final_model(self, path: Path, step: int) -> None:
        """Pass on where the trained learner is, after the last step."""
        self.tracker.log_model("final", step, {"path": str(path), "kind": "Hugging Face"})

    def branched(self, branch: Branch) -> None:
        """Pass on that a branch of a trial's history begins. The points that MLflow has stay; new ones are added."""
        self.tracker.repeat_after(branch.step)
        self.tracker.set_tags({f"lineage/{branch.number}": branch.describe()})
        self.reporter.note(f"branch {branch.number} of this trial begins with {branch.describe()}")

    def evaluation(self, record: EvaluationRecord, when: str) -> None:
        """Pass on an evaluation; `when` is "before", "during" or "after"."""
        self.tracker.log_evaluation(record, when)
        self.reporter.evaluation(record, when)


def where_it_was_tracked(config: TrackingConfig, known: str | None) -> TrackingConfig:
    """The configuration with the server that the run found in its environment, where this process has none.

    A sqlite file is looked for beside the run directory, which may have been moved with it. A server whose address has
    a password, which is not kept, has to be named again.

    Args:
        config: tracking, of the run's configuration.
        known: the tracking URI that the run directory remembers.
    """
    named = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if named or known is None or known.startswith("sqlite") or "***" in known:
        return config
    return config.model_copy(update={"uri": known})


def named_in_vain(config: TrackingConfig) -> str:
    """The end of an answer where the environment names another store than the configuration, which goes first."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not (given and config.uri) or given == config.uri:
        return ""
    return ". MLFLOW_TRACKING_URI was not used: the configuration in that directory has tracking.uri"


@contextmanager
def saying_which_store(config: TrackingConfig, known: str | None, directory: Path) -> Iterator[None]:
    """In the block, errors also say why the store is not the one that may be meant.

    Args:
        config: tracking, as of the run's configuration.
        known: the tracking URI that the run remembers.
        directory: of the run.

    Raises:
        TrackingError: in place of every such error.
    """
    try:
        yield
    except TrackingError as error:
        said = f"{error}{named_in_vain(config)}"
        used = redact(locate(where_it_was_tracked(config, known).uri, directory.parent)[0])
        if known is not None and known != used:
            said += f". When it was last tracked, its store was {known}"
        raise TrackingError(said) from None
