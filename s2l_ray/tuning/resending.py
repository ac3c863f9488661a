"""Sending MLflow what it lacks of a study that is over."""

from __future__ import annotations

from pathlib import Path

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import ConfigError
from s2l_ray.machine.disk import read_json
from s2l_ray.run.tracking import where_it_was_tracked
from s2l_ray.tracking.sending import send_undelivered
from s2l_ray.tuning.outcomes import study_files


def is_study(path: Path) -> bool:
    """Whether a directory is that of a study that is over."""
    return study_files(path)["table"].is_file()


def resend_study(path: Path) -> str:
    """Send what STUDY/undelivered.jsonl has of the study's own MLflow run. Each trial has its own file.

    Args:
        path: the study's directory.

    Returns:
        What was sent, in a sentence.

    Raises:
        ConfigError: the study was not tracked.
        DataError: tune.json is damaged.
        TrackingError: MLflow cannot be used, has not got the run, or did not take everything.
    """
    table = study_files(path)["table"]
    row = read_json(table, "put a copy of it back")
    if not row.get("mlflow_run_id"):
        raise ConfigError(f"{path} was not tracked (tracking.enabled): there is no MLflow run to send to")
    stopped = any(trial["status"] in ("stopped", "waiting") for trial in row["trials"])
    config = where_it_was_tracked(TrackingConfig(), row["mlflow_uri"])
    return send_undelivered(config, path.resolve(), row["mlflow_run_id"], "KILLED" if stopped else "FINISHED")
