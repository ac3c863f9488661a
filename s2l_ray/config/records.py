"""What a run keeps: checkpoints, and metrics in MLflow."""

from __future__ import annotations

from s2l_ray.config.section import Positive, PositiveFloat, Section


class CheckpointConfig(Section):
    """Checkpoints, from which a run resumes."""

    every: Positive = 20
    """Steps between checkpoints; the last step is always saved."""
    keep: Positive = 2
    """Number of checkpoints that are kept, the newest ones."""


class TrackingConfig(Section):
    """Tracking with MLflow."""

    enabled: bool = True
    """Log metrics, the configuration and figures to MLflow. RUN_DIR/steps.jsonl has the metrics either way."""
    uri: str | None = None
    """MLflow tracking URI; default: MLFLOW_TRACKING_URI, else a sqlite file beside the run directory."""
    experiment: str = "s2l-ray"
    """Name of the MLflow experiment."""
    timeout_s: PositiveFloat = 10.0
    """How long the MLflow server may take to answer."""
