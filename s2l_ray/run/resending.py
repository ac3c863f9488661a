"""Sending MLflow what it lacks of a run that is over."""

from __future__ import annotations

from pathlib import Path

from s2l_ray.config import Config
from s2l_ray.config.loading import load_config
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import TrackedStatus
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.earlier import CONFIGURATION
from s2l_ray.run.late_tracking import log_late, steps_lacking
from s2l_ray.run.tracking import named_in_vain, saying_which_store, where_it_was_tracked
from s2l_ray.tracking.sending import send_undelivered


def resend(path: Path) -> str:
    """Send what RUN_DIR/undelivered.jsonl has; a run that was not tracked is logged from its files.

    Args:
        path: the run directory.

    Returns:
        What was sent, in a sentence or two.

    Raises:
        ConfigError: it is not a run directory, or another process is writing to it.
        DataError: one of its files is damaged.
        TrackingError: MLflow cannot be used, has not got the run, or did not take everything.
    """
    path = path.resolve()
    if not (path / CONFIGURATION).exists():
        raise ConfigError(
            f"{path} is not a run directory: it has no {CONFIGURATION}. Give the directory of a run, a study or an "
            "experiment, or the URI of a study or an experiment in an object store"
        )
    config = load_config(path / CONFIGURATION, {"run_dir": str(path), "resume": "auto"})
    directory = RunDirectory.acquire(config)
    try:
        with saying_which_store(config.tracking, directory.remembered().get("mlflow_uri"), path):
            return _sent(directory, config) + named_in_vain(config.tracking)
    finally:
        directory.close()


def _sent(directory: RunDirectory, config: Config) -> str:
    """Send what is kept, and log the run from its files where some of its steps may never have been kept."""
    path, remembered = directory.path, directory.remembered()
    run_id = remembered.get("mlflow_run_id")
    tracking = where_it_was_tracked(config.tracking, remembered.get("mlflow_uri"))
    late = run_id is None or tracking.parent_run is not None or not tracking.enabled
    tracking = tracking.model_copy(update={"enabled": True})  # whoever gives the command wants it
    status = _status(path, ended := remembered.get("ended"))
    said = send_undelivered(tracking, path, run_id, status) if run_id else None
    if late and steps_lacking(directory, tracking, run_id):
        said = log_late(directory, config, tracking, run_id, status, ended == "pruned")
    return said or f"MLflow has no run of {path}, in which no step was done"


def _status(path: Path, ended: str | None) -> TrackedStatus:
    """How a run ended, of which run.json says whether it failed or was pruned; else it was killed, or finished."""
    if ended == "failed":
        return "FAILED"
    return "FINISHED" if ended == "pruned" or (path / "summary.json").exists() else "KILLED"
