"""What a command has measured, in an MLflow run of the directory that it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import TrackingError
from s2l_ray.tracking.tracker import Tracker, open_tracker

SOURCE_TAGS = {"mlflow.source.name": "s2l-ray", "mlflow.source.type": "JOB"}


def track_measurements(
    config: TrackingConfig,
    directory: Path,
    run_id: str | None,
    remember: Callable[[str], None],
    log: Callable[[Tracker], None],
) -> str | None:
    """Log measurements to the MLflow run that the directory has had before, if any.

    Args:
        config: tracking; nothing is logged if it is not enabled.
        directory: where the measurements are; it names a new run.
        run_id: of the MLflow run of before.
        remember: called with the run's id before anything is logged.
        log: logs them.

    Returns:
        What MLflow did not take, and why; None if there is nothing to say. Measurements are on disk in any case.
    """
    try:
        tracker = open_tracker(config, directory, directory.name, run_id, "the same command sends them")
        if tracker.run_id is not None:
            remember(tracker.run_id)
            tracker.set_tags(SOURCE_TAGS)
        log(tracker)
        tracker.finish()
    except TrackingError as error:
        return str(error)
    return None
