"""Sending what MLflow lacks of a run that is over."""

from __future__ import annotations

import time
from pathlib import Path

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import TrackingError
from s2l_ray.kinds import TrackedStatus
from s2l_ray.redaction import redact
from s2l_ray.tracking.deliveries import Deliveries
from s2l_ray.tracking.mlflow_store import why_not
from s2l_ray.tracking.mlflow_tracker import metrics_of, still_missing, what_is_lost
from s2l_ray.tracking.opening import find_run
from s2l_ray.tracking.undelivered import UNDELIVERED, Entry, Undelivered, damaged_aside, in_words, read_undelivered
from s2l_ray.tracking.writer import Writer


def send_undelivered(config: TrackingConfig, directory: Path, run_id: str, status: TrackedStatus) -> str:
    """Send what undelivered.jsonl has of a run that is over.

    Args:
        config: tracking, of the run's configuration.
        directory: of the training run.
        run_id: of its MLflow run.
        status: how the run ended, should MLflow believe that it goes on.

    Returns:
        What was sent, in a sentence.

    Raises:
        DataError: the file cannot be read.
        TrackingError: the store cannot be used or has no such run, or did not take everything.
    """
    path = directory / UNDELIVERED
    kept = read_undelivered(path)
    opened = find_run(config, directory, run_id, metrics_of(kept))
    entries, damage = still_missing(opened, kept), damaged_aside(path)
    if opened.run.info.status == "RUNNING" and not any(entry.kind == "status" for entry in entries):
        entries.append(Entry("status", run_id, {"status": status, "time": int(time.time() * 1000)}))
    uri = redact(opened.uri)
    writer = Writer(
        Undelivered(path, entries),
        entries,
        Deliveries(opened.client, opened.run, directory, config.timeout_s),
        lambda error: f"MLflow at {uri}: {why_not(error)}",
    )
    while writer.pending and writer.deliver_next():
        pass
    writer.stop()
    said = [damage] if damage else []
    if pending := writer.pending:
        said.append(f"{writer.problem}. Still not sent: {in_words(pending)}, kept in {path}; try again later")
    if writer.refused:
        said.append(what_is_lost(uri, writer.refused))
    if said:
        raise TrackingError(". ".join(said))
    if not entries:
        return f"MLflow at {uri} has everything of run {run_id}"
    return f"sent {in_words(entries)} to MLflow at {uri}, run {run_id}"
