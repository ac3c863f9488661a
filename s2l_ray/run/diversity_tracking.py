"""A comparison of diversity in MLflow: a run with the settings, the measures of every source, and the files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from s2l_ray.config import TrackingConfig
from s2l_ray.diversity.record import DiversityRecord
from s2l_ray.run.diversity_settings import DiversitySettings
from s2l_ray.statistics import Estimate
from s2l_ray.tracking.measurements import track_measurements
from s2l_ray.tracking.tracker import Tracker


def track(record: DiversityRecord, config: TrackingConfig, directory: Path, files: list[Path]) -> str | None:
    """Log a comparison, to the MLflow run that the directory has had before, if any.

    Args:
        record: what was measured.
        config: tracking; nothing is logged if it is not enabled.
        directory: of the comparison.
        files: record and figure, which are logged too.

    Returns:
        What MLflow did not take, and why; None if there is nothing to say.
    """
    settings = DiversitySettings.read(directory)
    log = partial(_log, record=record, files=files)
    return track_measurements(config, directory, settings.mlflow_run, partial(settings.remember_run, directory), log)


def _log(tracker: Tracker, record: DiversityRecord, files: list[Path]) -> None:
    single = {key: value for key, value in record.settings.items() if not isinstance(value, dict)}
    objective = {f"objective.{key}": value for key, value in record.settings["objective"].items()}
    tracker.log_params({**single, **objective, "match": record.match, "problems": record.problems})
    tracker.set_tags({"s2l.diversity": "1"})
    metrics: dict[str, float] = {}
    for source in record.sources:
        metrics |= _metrics(f"{record.name}/{source.name}", source.measures)
    for one in record.differences:
        metrics |= _metrics(f"{record.name}/{one.of} less {one.less}", one.measures)
    tracker.log_metrics(metrics, step=record.samples)
    for file in files:
        tracker.log_artifact(file)


def _metrics(prefix: str, measures: dict[str, Estimate | None]) -> dict[str, float]:
    """Each measure with the bounds of its interval; those that do not exist are left out."""
    found: dict[str, float] = {}
    for name, estimate in measures.items():
        if estimate is not None:
            at = f"{prefix}/{name}"
            found |= {at: estimate.value, f"{at}_low": estimate.low, f"{at}_high": estimate.high}
    return found
