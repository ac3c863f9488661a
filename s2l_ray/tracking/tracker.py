"""One MLflow run per training run: configuration, data sets, one batch of metrics per step, evaluations, figures.

Nothing a tracking server does can stop or stall training. `open_tracker` raises when the server does not answer; after
that, what cannot be delivered is kept and sent with the next step, `problem` says what is wrong, and `finish` raises if
it is still wrong at the end. Each request is bounded by `tracking.timeout_s`.

MLflow is imported inside functions: its import takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import TrackingError
from s2l_ray.kinds import TrackedStatus
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.tracking.mlflow_store import (
    bounded,
    bring_artifacts_home,
    connect,
    continued_run,
    find_experiment,
    locate,
    probe,
    redact,
    what_to_do,
)
from s2l_ray.tracking.mlflow_tracker import MlflowTracker


class Tracker(Protocol):
    """Records a training run.

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
        """Why the last delivery failed; None when everything was delivered."""

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log a configuration, nested or flattened."""

    def log_step(self, record: StepRecord) -> None:
        """Log the metrics of a step."""

    def log_evaluation(self, record: EvaluationRecord, when: str) -> None:
        """Log the metrics of an evaluation; `when` is "before", "during" or "after"."""

    def log_dataset(self, name: str, path: Path, digest: str, rows: int, context: str) -> None:
        """Name a data file as an input of the run; `context` is "training" or "evaluation"."""

    def log_text(self, text: str, artifact_file: str) -> None:
        """Store `text` as an artifact."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file as an artifact, in `folder` of the run's artifacts."""

    def finish(self, status: TrackedStatus = "FINISHED") -> None:
        """Deliver what is left and end the run.

        Raises:
            TrackingError: something could not be delivered.
        """


class NoTracker(Tracker):
    """tracking.enabled=false: every call does nothing."""

    uri = run_id = problem = None

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_step(self, record: StepRecord) -> None:
        """Do nothing."""

    def log_evaluation(self, record: EvaluationRecord, when: str) -> None:
        """Do nothing."""

    def log_dataset(self, name: str, path: Path, digest: str, rows: int, context: str) -> None:
        """Do nothing."""

    def log_text(self, text: str, artifact_file: str) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Do nothing."""

    def finish(self, status: TrackedStatus = "FINISHED") -> None:
        """Do nothing."""


def open_tracker(config: TrackingConfig, default_store: Path, run_name: str, run_id: str | None = None) -> Tracker:
    """Start a run, or continue `run_id`; a `run_id` that the store does not have (any more) starts a new run.

    Args:
        config: tracking, of the run's configuration.
        default_store: directory of mlflow.db and mlartifacts, used when neither tracking.uri nor MLFLOW_TRACKING_URI is
            set.
        run_name: what MLflow shows for a new run.
        run_id: of the run to continue.

    Raises:
        TrackingError: the store cannot be used, or the server did not answer within tracking.timeout_s.
    """
    if not config.enabled:
        return NoTracker()
    uri, artifacts = locate(config.uri, Path(default_store).resolve())
    try:
        with bounded(config.timeout_s):
            probe(uri, config.timeout_s)
            client = connect(uri)
            experiment_id = find_experiment(client, config, artifacts)
            found = continued_run(client, run_id) if run_id else None
            run = bring_artifacts_home(client, found or client.create_run(experiment_id, run_name=run_name), artifacts)
            return MlflowTracker(client, uri, run, config.timeout_s, resumed=found is not None)
    except TrackingError:
        raise
    except Exception as error:  # a store raises MLflow's, SQLAlchemy's, sqlite's, socket's or its driver's errors
        raise TrackingError(f"MLflow at {redact(uri)} cannot be used: {what_to_do(uri, error)}") from None
