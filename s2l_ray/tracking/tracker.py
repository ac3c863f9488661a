"""One MLflow run per training run: configuration, data sets, one batch of metrics per step, evaluations, figures.

Nothing a tracking server does can stop or stall training. `open_tracker` raises when the server does not answer; after
that a thread delivers, in order (`writer`). What is not delivered is kept in RUN_DIR/undelivered.jsonl, sent again by
the thread, by a resumed run, or by `s2l track`. `problem` says what is wrong, and `finish` raises if it is still wrong
at the end, which waits for a server for at most `tracking.timeout_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from s2l_ray.config import TrackingConfig
from s2l_ray.kinds import TrackedStatus
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.tracking.mlflow_tracker import MlflowTracker


class Tracker(Protocol):
    """Records a training run. Nothing but `finish` waits for the server.

    A run that is resumed may pass on steps and evaluations again: the first of each counts.
    """

    @property
    def uri(self) -> str | None:
        """Tracking URI without passwords; None if nothing is tracked."""

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None if nothing is tracked."""

    @property
    def problem(self) -> str | None:
        """Why something is not delivered; None when everything is, or is on its way."""

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log a configuration, nested or flattened."""

    def log_step(self, record: StepRecord) -> bool:
        """Log the metrics of a step; whether they were new."""

    def repeat_after(self, step: int) -> None:
        """Later steps are done again, by a trial that was given another state: they get further points."""

    def log_evaluation(self, record: EvaluationRecord, when: str) -> None:
        """Log the metrics of an evaluation; `when` is "before", "during" or "after"."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def log_dataset(self, name: str, source: str, digest: str, context: str, profile: Mapping[str, Any]) -> None:
        """Name data as an input of the run.

        Args:
            name: what it is to the run, such as "train".
            source: its path or URL.
            digest: of its content.
            context: "training", "evaluation" or another use.
            profile: numbers about it, such as its rows.
        """

    def log_text(self, text: str, artifact_file: str) -> None:
        """Store `text` as an artifact."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file as an artifact, in `folder` of the run's artifacts."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log further metrics at a step."""

    def log_traces(self, path: Path, step: int, count: int) -> None:
        """Show the first `count` rollouts of a file of RUN_DIR/rollouts/ as traces."""

    def log_model(self, name: str, step: int, params: Mapping[str, str]) -> None:
        """Add a model to the run, taken after `step`, by what is said of it (`params`)."""

    def forget_model(self, name: str) -> None:
        """Take a model out again that is not on disk any more."""

    def finish(self, status: TrackedStatus = "FINISHED", brief: bool = False) -> None:
        """Deliver what is left and end the run.

        Args:
            status: how it ended.
            brief: whether somebody waits for the end, as for that of a run that was stopped.

        Raises:
            TrackingError: something could not be delivered.
        """


class NoTracker(Tracker):
    """tracking.enabled=false: every call does nothing."""

    uri = run_id = problem = None

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_step(self, record: StepRecord) -> bool:
        """Do nothing."""
        return False

    def repeat_after(self, step: int) -> None:
        """Do nothing."""

    def log_evaluation(self, record: EvaluationRecord, when: str) -> None:
        """Do nothing."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Do nothing."""

    def log_dataset(self, name: str, source: str, digest: str, context: str, profile: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_text(self, text: str, artifact_file: str) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Do nothing."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_traces(self, path: Path, step: int, count: int) -> None:
        """Do nothing."""

    def log_model(self, name: str, step: int, params: Mapping[str, str]) -> None:
        """Do nothing."""

    def forget_model(self, name: str) -> None:
        """Do nothing."""

    def finish(self, status: TrackedStatus = "FINISHED", brief: bool = False) -> None:
        """Do nothing."""


def open_tracker(
    config: TrackingConfig, directory: Path, run_name: str, run_id: str | None = None, sent_by: str | None = None
) -> Tracker:
    """Start a run, or continue one; a `run_id` that the store does not have (any more) starts a new run.

    Args:
        config: tracking, of the run's configuration.
        directory: of the training run. Beside it are mlflow.db and mlartifacts, used when neither tracking.uri nor
            MLFLOW_TRACKING_URI is set; in it is what is not delivered.
        run_name: what MLflow shows for a new run.
        run_id: of the MLflow run to continue; None: the one that MLFLOW_RUN_ID names, or a new one.
        sent_by: what sends later what MLflow has not taken at the end, for messages; None: `s2l track`, or a resume.

    Raises:
        TrackingError: the store cannot be used, or the server did not answer within tracking.timeout_s.
        DataError: what is not delivered cannot be read.
        DiskError: the directory cannot be written to.
    """
    if not config.enabled:
        return NoTracker()
    return MlflowTracker.open(config, Path(directory).resolve(), run_name, run_id, sent_by)
