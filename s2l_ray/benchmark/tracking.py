"""An evaluation in MLflow: a run with the settings, pass@k of every model on every benchmark, and the files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from s2l_ray.benchmark.directory import FIGURE, RESULTS, EvaluationDirectory
from s2l_ray.config import TrackingConfig
from s2l_ray.tracking.measurements import track_measurements
from s2l_ray.tracking.tracker import Tracker


def track(results: dict[str, Any], config: TrackingConfig, directory: EvaluationDirectory) -> str | None:
    """Log the results, to the MLflow run that the directory has had before, if any.

    Args:
        results: the content of evaluation.json.
        config: tracking; nothing is logged if it is not enabled.
        directory: whose MLflow run it is.

    Returns:
        What MLflow did not take, and why; None if there is nothing to say. Results are on disk in any case.
    """
    return track_measurements(
        config,
        directory.path,
        directory.mlflow_run,
        directory.remember_run,
        lambda tracker: _log(tracker, results, directory),
    )


def _log(tracker: Tracker, results: dict[str, Any], directory: EvaluationDirectory) -> None:
    tracker.log_params(directory.settings)
    tracker.set_tags({"s2l.evaluation": "1"})
    for benchmark in results["benchmarks"]:
        profile = {"num_rows": benchmark["problems"]}
        tracker.log_dataset(benchmark["name"], benchmark["path"], benchmark["digest"], "evaluation", profile)
    for row in results["results"]:
        tracker.log_metrics(dict(_metrics(row, results["k"])), step=row["samples"])
    for file in (RESULTS, FIGURE):
        tracker.log_artifact(directory.path / file)


def _metrics(row: dict[str, Any], ks: list[int]) -> Iterator[tuple[str, float]]:
    name = f"{row['benchmark']}/{row['model']}"
    for k in ks:
        for key, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            yield f"{name}/pass_at_{k}{suffix}", row["pass_at"][str(k)][key]
    if row["maj_at"]:
        yield f"{name}/maj_at_{row['samples']}", row["maj_at"][str(row["samples"])]["value"]
    yield f"{name}/response_tokens", row["response_tokens"]["value"]
    yield f"{name}/truncated", row["truncated"]
