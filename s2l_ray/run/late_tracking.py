"""Logging a run in MLflow after its end, from the files in its directory.

A run with tracking.parent_run goes on without MLflow if the server is away when it starts: then MLflow has not even the
run that undelivered entries belong to.
"""

from __future__ import annotations

import json
from typing import Any

from s2l_ray.config import Config, TrackingConfig
from s2l_ray.kinds import TrackedStatus
from s2l_ray.results import EvaluationRecord
from s2l_ray.run.description import tags_of
from s2l_ray.run.directory import RunDirectory
from s2l_ray.tracking.mlflow_tracker import OF_STEP
from s2l_ray.tracking.opening import find_run
from s2l_ray.tracking.tracker import Tracker, open_tracker

ONCE = {"before": "before", "explorer": "before", "after": "after"}
"""Evaluation in summary.json -> when it was made."""


def steps_lacking(directory: RunDirectory, tracking: TrackingConfig, run_id: str | None) -> int:
    """How many steps of the directory its MLflow run lacks.

    Raises:
        TrackingError: the store cannot be used, or has no such run.
    """
    known = find_run(tracking, directory.path, run_id, [OF_STEP]).steps[OF_STEP] if run_id else set()
    return sum(record.step not in known for record in directory.log.read())


def log_late(
    directory: RunDirectory, config: Config, tracking: TrackingConfig, run_id: str | None, status: TrackedStatus
) -> str:
    """Log the configuration, all steps and evaluations that MLflow lacks, and the figures.

    Args:
        directory: of the run.
        config: of the run.
        tracking: where it is tracked.
        run_id: of its MLflow run, if it has one.
        status: how the run ended.

    Returns:
        What was logged, in a sentence.

    Raises:
        TrackingError: the store cannot be used, or did not take everything.
    """
    tracker = open_tracker(tracking, directory.path, config.name, run_id)
    directory.remember(mlflow_run_id=tracker.run_id, mlflow_uri=tracker.uri)
    tracker.log_params(config.model_dump(mode="json"))
    tracker.log_text(config.to_yaml(), "config.yaml")
    tracker.set_tags(tags_of(config, None))
    steps = sum(tracker.log_step(record) for record in directory.log.read())
    summary = directory.path / "summary.json"
    if summary.exists():
        _log_evaluations(tracker, json.loads(summary.read_text(encoding="utf-8"))["evaluation"])
        for figure in sorted((directory.path / "figures").glob("*.png")):
            tracker.log_artifact(figure, "figures")
        tracker.log_artifact(summary)
    tracker.finish(status)
    return f"logged {steps} step{'s' if steps > 1 else ''} to MLflow at {tracker.uri}, run {tracker.run_id}"


def _log_evaluations(tracker: Tracker, evaluations: dict[str, Any]) -> None:
    for name, when in ONCE.items():
        if evaluations[name]:
            tracker.log_evaluation(EvaluationRecord.from_json(evaluations[name]), when)
    for row in evaluations["during"]:
        tracker.log_evaluation(EvaluationRecord.from_json(row), "during")
