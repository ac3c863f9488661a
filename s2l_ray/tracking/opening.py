"""Opening the MLflow run of a training run: a new one, the one to go on with, or the one that the environment names.

MLflow is imported inside functions: its import takes seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import S2LError, TrackingError
from s2l_ray.machine.ending import is_told
from s2l_ray.redaction import redact
from s2l_ray.tracking.mlflow_store import (
    CREATION_S,
    bring_artifacts_home,
    connect,
    find_experiment,
    first_answer,
    locate,
    named_experiment,
    probe,
    run_or_none,
    sqlite_file,
    what_to_do,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

PARENT = "mlflow.parentRunId"
"""Tag of a run that MLflow shows under another."""
REQUESTS = 10
"""Requests that opening a run takes at most, beside one for each metric; each is bounded by tracking.timeout_s."""
ABANDONED_S = 10.0
"""Seconds for which the end of a process waits for a run that it was opening, to end it."""
TOLD_S = 3.0
"""Bound in seconds on what a process asks that has been told to end: it tidies up, see `machine.ending.GRACE_S`."""
POLL_S = 0.1
"""Seconds between two looks at whether the process is told to end."""


class NoParentError(TrackingError):
    """The store has no run of the id that tracking.parent_run gives."""


@dataclass(frozen=True)
class OpenedRun:
    """An MLflow run, ready for entries."""

    client: MlflowClient
    uri: str
    run: Run
    steps: Mapping[str, set[int]]
    """The steps at which it has a point, by metric: of each metric that was asked for."""

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        return str(self.run.info.run_id)


def open_run(
    config: TrackingConfig, directory: Path, run_name: str, run_id: str | None, metrics: Collection[str]
) -> OpenedRun:
    """Start the MLflow run of a training run, or go on with it, see `tracker.open_tracker`.

    Args:
        config, directory, run_name, run_id: as there.
        metrics: whose points are looked up.

    Raises:
        TrackingError: the store cannot be used, or did not answer in time. A run that was there is as it was.
    """
    return asked(config, directory, metrics, lambda opening: opening.start(directory, run_name, run_id), _end)


def find_run(config: TrackingConfig, directory: Path, run_id: str, metrics: Collection[str] = ()) -> OpenedRun:
    """The MLflow run `run_id` of a training run, as it is.

    Args:
        config: tracking, of the run's configuration.
        directory: of the training run.
        run_id: of the MLflow run.
        metrics: whose points are looked up.

    Raises:
        TrackingError: the store is not there, cannot be used, did not answer in time, or has no such run.
    """
    file = sqlite_file(locate(config.uri, directory.parent)[0])
    if file is not None and not file.exists():  # MLflow would make a new one
        raise TrackingError(f"there is no MLflow store {file}; set MLFLOW_TRACKING_URI to where the run was logged")
    return asked(config, directory, metrics, lambda opening: opening.find(run_id), lambda late: None)


class _Opening:
    """A store that answered."""

    def __init__(self, config: TrackingConfig, uri: str, artifacts: str | None, metrics: Collection[str]) -> None:
        probe(uri, config.timeout_s)
        self.client = connect(uri, config.timeout_s)
        self._config, self._uri, self._artifacts, self._metrics = config, uri, artifacts, metrics

    def start(self, directory: Path, run_name: str, run_id: str | None) -> OpenedRun:
        parent_run = self._config.parent_run
        if run_id is None and parent_run is None and (given := os.environ.get("MLFLOW_RUN_ID")):
            return self._continued(self._given(given, directory))
        found = self._answer(lambda: run_or_none(self.client, run_id)) if run_id else None
        if found is not None:
            if parent_run is not None and parent_run != found.data.tags.get(PARENT):
                self._parent(parent_run)
                self.client.set_tag(found.info.run_id, PARENT, parent_run)
            return self._continued(found)
        if parent_run is None:
            experiment_id, tags = find_experiment(self.client, self._config, self._artifacts), {}
        else:
            experiment_id, tags = self._experiment_beside(self._parent(parent_run)), {PARENT: parent_run}
        created = self.client.create_run(experiment_id, run_name=run_name, tags=tags)
        return self._opened(created, {metric: set() for metric in self._metrics})

    def _parent(self, run_id: str) -> Run:
        """The run that tracking.parent_run names."""
        run = self._answer(lambda: run_or_none(self.client, run_id))
        if run is None:
            raise NoParentError(
                f"tracking.parent_run: MLflow at {redact(self._uri)} has no run {run_id}; give the id of a run that it "
                "has, or leave the key out"
            )
        return run

    def _experiment_beside(self, parent: Run) -> str:
        """The parent's experiment, since MLflow shows runs as nested within one only, unless another is named."""
        if named_experiment(self._config):
            return find_experiment(self.client, self._config, self._artifacts)
        return str(parent.info.experiment_id)

    def find(self, run_id: str) -> OpenedRun:
        run = run_or_none(self.client, run_id)
        if run is None:
            raise TrackingError(
                f"MLflow at {redact(self._uri)} has no run {run_id}; set MLFLOW_TRACKING_URI to where it was logged"
            )
        return self._opened(run, self._points(run_id))

    def _given(self, run_id: str, directory: Path) -> Run:
        """The run that MLFLOW_RUN_ID names."""
        run = self._answer(lambda: run_or_none(self.client, run_id))
        if run is None:
            raise TrackingError(
                f"MLFLOW_RUN_ID: MLflow at {redact(self._uri)} has no run {run_id}; name one, or unset it"
            )
        if (other := run.data.params.get("run_dir", str(directory))) != str(directory):
            raise TrackingError(
                f"MLFLOW_RUN_ID: the MLflow run {run_id} is of the training run in {other}; name another, or unset it"
            )
        return run

    def _continued(self, run: Run) -> OpenedRun:
        """A run that was there, set to running again."""
        # Last: if something before it fails, nobody would end the run again.
        opened = self._opened(run, self._points(run.info.run_id))
        self._answer(lambda: self.client.update_run(opened.run_id, status="RUNNING"))
        return opened

    def _points(self, run_id: str) -> dict[str, set[int]]:
        """The steps of the points that a run has of each metric."""
        return {
            metric: {point.step for point in self._answer(partial(self.client.get_metric_history, run_id, metric))}
            for metric in self._metrics
        }

    def _answer(self, ask: Callable[[], T]) -> T:
        return first_answer(self.client, self._config, ask)

    def _opened(self, run: Run, steps: Mapping[str, set[int]]) -> OpenedRun:
        return OpenedRun(self.client, self._uri, bring_artifacts_home(self.client, run, self._artifacts), steps)


def asked(
    config: TrackingConfig,
    directory: Path,
    metrics: Collection[str],
    ask: Callable[[_Opening], T],
    abandon: Callable[[T], None],
) -> T:
    """What a store answers, within a bound.

    Args:
        config, directory, metrics: as of `open_run`.
        ask: asks it.
        abandon: given what that returns after all, when its time was up, or the process was told to end.

    Raises:
        TrackingError: the store cannot be used, or did not answer in time.
    """
    uri, artifacts = locate(config.uri, directory.parent)
    bound = (REQUESTS + len(metrics)) * config.timeout_s + (CREATION_S if sqlite_file(uri) else 0)
    if is_told():  # it is asked in order to end something
        bound = min(bound, TOLD_S)
    # Set before MLflow is imported: a training run tells nobody but the user's own server about itself.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        return _within(bound, lambda: ask(_Opening(config, uri, artifacts, metrics)), abandon)
    except S2LError:
        raise
    except Exception as error:  # a store raises MLflow's, SQLAlchemy's, sqlite's, socket's or its driver's errors
        raise TrackingError(f"MLflow at {redact(uri)} cannot be used: {what_to_do(uri, error)}") from None


def _end(opened: OpenedRun) -> None:
    """End a run that nobody waits for any more."""
    with suppress(Exception):
        opened.client.set_terminated(opened.run_id, "KILLED")


def _within(seconds: float, work: Callable[[], T], abandon: Callable[[T], None]) -> T:
    """Do work in a thread, so that neither time nor a signal is lost where a driver hangs outside Python.

    A process that was told to end before tidies up with it.

    Args:
        seconds: bound on it.
        work: what to do.
        abandon: given what it returns after all, when its time was up, or the process was told to end.

    Raises:
        TimeoutError: it took longer.
        KeyboardInterrupt: the process was told to end.
    """
    future: Future[T] = Future()
    settled = threading.Event()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    def give_up(done: Future[T]) -> None:
        if done.exception() is None:
            abandon(done.result())
        settled.set()

    threading.Thread(target=run, name="mlflow-opening", daemon=True).start()
    try:
        _wait(future, seconds)
    except BaseException:
        future.add_done_callback(give_up)
        settled.wait(ABANDONED_S)
        raise
    return future.result()


def _wait(future: Future[T], seconds: float) -> None:
    """Wait for a future, also where signals are held. One that came before does not count.

    Raises:
        TimeoutError: it takes longer than `seconds`.
        KeyboardInterrupt: the process was told to end.
    """
    deadline, tidies_up = time.monotonic() + seconds, is_told()
    while not wait([future], POLL_S).done:
        if is_told() and not tidies_up:
            raise KeyboardInterrupt
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {seconds:g} s")
