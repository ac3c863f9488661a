"""Where a run logs its metrics."""

from __future__ import annotations

from s2l_ray.config.section import PositiveFloat, Section


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
