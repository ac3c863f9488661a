"""Logging a run in MLflow after its end, from the files in its directory.

A run with tracking.parent_run goes on without MLflow if the server is away when it starts: then MLflow has not even the
run that undelivered entries belong to.
"""

from __future__ import annotations

from pathlib import Path

from s2l_ray.config import Config, TrackingConfig
from s2l_ray.errors import DataError
from s2l_ray.evaluation.held_out import Evaluations
from s2l_ray.kinds import TrackedStatus
from s2l_ray.machine.disk import read_json
from s2l_ray.machine.reading import MISREAD, misread
from s2l_ray.run.description import tags_of
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.earlier_evaluations import evaluations_in
from s2l_ray.run.tracking import TRIAL_STATUS
from s2l_ray.tracking.mlflow_tracker import OF_STEP
from s2l_ray.tracking.opening import find_run
from s2l_ray.tracking.tracker import Tracker, open_tracker


def steps_lacking(directory: RunDirectory, tracking: TrackingConfig, run_id: str | None) -> int:
    """How many steps of the directory its MLflow run lacks.

    Raises:
        TrackingError: the store cannot be used, or has no such run.
    """
    known = find_run(tracking, directory.path, run_id, [OF_STEP]).steps[OF_STEP] if run_id else set()
    return sum(record.step not in known for record in directory.log.read())


def log_late(
    directory: RunDirectory,
    config: Config,
    tracking: TrackingConfig,
    run_id: str | None,
    status: TrackedStatus,
    pruned: bool,
) -> str:
    """Log the configuration, all steps and evaluations that MLflow lacks, and the figures.

    Args:
        directory: of the run.
        config: of the run.
        tracking: where it is tracked.
        run_id: of its MLflow run, if it has one.
        status: how the run ended.
        pruned: whether a scheduler ended it.

    Returns:
        What was logged, in a sentence.

    Raises:
        DataError: what the directory has cannot be read.
        TrackingError: the store cannot be used, or did not take everything.
    """
    records, summary = directory.log.read(), directory.path / "summary.json"
    evaluations = _evaluations(directory.path, summary)
    tracker = open_tracker(tracking, directory.path, config.name, run_id)
    directory.remember(mlflow_run_id=tracker.run_id, mlflow_uri=tracker.uri)
    tracker.log_params(config.model_dump(mode="json"))
    tracker.log_text(config.to_yaml(), "config.yaml")
    tracker.set_tags(tags_of(config, None) | ({TRIAL_STATUS: "pruned"} if pruned else {}))
    steps = sum(tracker.log_step(record) for record in records)
    _log_evaluations(tracker, evaluations)
    if summary.exists():
        for figure in sorted((directory.path / "figures").glob("*.png")):
            tracker.log_artifact(figure, "figures")
        tracker.log_artifact(summary)
    tracker.finish(status)
    return f"logged {steps} step{'s' if steps > 1 else ''} to MLflow at {tracker.uri}, run {tracker.run_id}"


def _evaluations(run: Path, summary: Path) -> Evaluations:
    try:
        return evaluations_in(run, read_json(summary, "put a copy of it back") if summary.exists() else None)
    except MISREAD as error:
        raise DataError(
            f"{run}: its evaluations are not what this version of s2l-ray writes ({misread(error)}). Give the command "
            "with the version that wrote them"
        ) from error


def _log_evaluations(tracker: Tracker, found: Evaluations) -> None:
    when = [("before", found.before), ("before", found.explorer), ("after", found.after)]
    for name, record in [*when, *(("during", record) for record in found.during)]:
        if record is not None:
            tracker.log_evaluation(record, name)
