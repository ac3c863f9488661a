"""The MLflow run of a training run: what is delivered when, and what is kept for later.

MLflow is imported inside functions: its import takes seconds.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from s2l_ray.errors import TrackingError
from s2l_ray.kinds import Source, TrackedStatus
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.tracking.metrics import evaluation_metrics, metric_name, step_metrics
from s2l_ray.tracking.mlflow_store import bounded, first_line, probe, quiet, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_VALUE = 6000
"""Characters of a parameter's value (MLflow's limit)."""
MAX_PARAMS = 100
"""Parameters or tags of one request (MLflow's limit)."""
MAX_DIGEST = 36
"""Characters of a data set's digest (MLflow's limit)."""
RETRY_SECONDS = 30.0
"""Seconds after a failed delivery in which none is tried: a server that hangs must not delay every step."""


class MlflowTracker:
    """A `Tracker` that delivers to MLflow, in order; what could not be delivered is tried again with what follows.

    A resumed run continues the same MLflow run. `log_step` and `log_evaluation` send what has no point yet and ignore
    the rest, so a run may replay the steps after its last checkpoint, or all of `steps.jsonl`, without a second point.

    Args:
        client: of the store.
        uri: tracking URI.
        run: the MLflow run.
        timeout_s: bound on each request.
        resumed: whether the run may have points already.
    """

    def __init__(self, client: MlflowClient, uri: str, run: Run, timeout_s: float, resumed: bool) -> None:
        self.uri = redact(uri)
        self.run_id: str | None = run.info.run_id
        self.problem: str | None = None
        """Why the last delivery failed; None when all is delivered."""
        self._client = client
        self._timeout_s = timeout_s
        self._undelivered: deque[Callable[[], None]] = deque()
        self._retry_at = 0.0
        self._params = dict(run.data.params)
        self._steps = self._steps_with("alpha") if resumed else set()
        self._evaluations: dict[Source, set[int]] = {
            source: self._steps_with(f"eval/{source}/reward") if resumed else set() for source in get_args(Source)
        }

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log a configuration, nested or flattened. Long values are cut, passwords hidden.

        MLflow's parameters cannot change. A value that a resumed run has changed becomes the tag `resumed/<key>`.
        """
        params = {metric_name(key): _value(value) for key, value in _flat(values)}
        changed = {f"resumed/{k}": v for k, v in params.items() if self._params.get(k, v) != v}
        new = {k: v for k, v in params.items() if k not in self._params}
        self._params |= new
        self._send(lambda: self._log_values(new, changed))

    def log_step(self, record: StepRecord) -> None:
        """One batch of metrics at step `record.step`; nothing if the step has its point already."""
        if record.step not in self._steps:
            self._steps.add(record.step)
            self._log_metrics(step_metrics(record), record.step)

    def log_evaluation(self, record: EvaluationRecord, when: str) -> None:
        """pass@k with its interval at step `record.step`, as `eval/<model>/pass_at_<k>`; also tagged with `when`."""
        if record.step in self._evaluations[record.model]:
            return
        self._evaluations[record.model].add(record.step)
        self._log_metrics(evaluation_metrics(record), record.step)
        self.set_tag(f"evaluated/{record.model}/{when}", f"step {record.step}, weight version {record.weight_version}")

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the run; passwords in URIs are hidden."""
        self._send(lambda: self._client.set_tag(self.run_id, metric_name(key), redact(value)))

    def log_dataset(self, name: str, path: Path, digest: str, rows: int, context: str) -> None:
        """Name a data file as an input of the run; its content is not copied. `context`: training or evaluation."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:MAX_DIGEST],
            source_type="local",
            source=json.dumps({"uri": str(Path(path).resolve())}),
            profile=json.dumps({"num_rows": rows}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        self._send(lambda: self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)]))

    def log_text(self, text: str, artifact_file: str) -> None:
        """Store `text` as an artifact; passwords in URIs are hidden."""
        self._send(lambda: self._client.log_text(self.run_id, redact(text), artifact_file))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file as an artifact, in `folder` of the run's artifacts."""
        self._send(lambda: self._client.log_artifact(self.run_id, str(path), folder))

    def finish(self, status: TrackedStatus = "FINISHED") -> None:
        """Deliver what is left and end the run.

        Raises:
            TrackingError: something could not be delivered.
        """
        self._send(lambda: self._client.set_terminated(self.run_id, status), now=True)
        if self._undelivered:
            raise TrackingError(
                f"MLflow at {self.uri} did not take the last {len(self._undelivered)} entries of run {self.run_id}: "
                f"{self.problem}. Training is not affected; resume the run with the server up to send them"
            )

    def _log_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        # The time is fixed here: a batch sent twice because its answer was lost is then the same points.
        now = int(time.time() * 1000)
        metrics = [Metric(metric_name(key), float(value), now, step) for key, value in values.items()]
        self._send(lambda: self._client.log_batch(self.run_id, metrics=metrics, synchronous=True))

    def _log_values(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        for batch in _batches([Param(key, value) for key, value in params.items()]):
            self._client.log_batch(self.run_id, params=batch, synchronous=True)
        for batch in _batches([RunTag(key, value) for key, value in tags.items()]):
            self._client.log_batch(self.run_id, tags=batch, synchronous=True)

    def _send(self, delivery: Callable[[], None], now: bool = False) -> None:
        """Put a delivery last in line, and deliver in order until one fails, which stays first in line.

        Args:
            delivery: makes the request.
            now: try also if a delivery failed less than RETRY_SECONDS ago.
        """
        self._undelivered.append(delivery)
        if not now and time.monotonic() < self._retry_at:
            return
        # MLflow logs pages about a failed delivery (of a locked database, for example); `problem` is one line.
        with bounded(self._timeout_s), quiet(logging.CRITICAL):
            while self._undelivered:
                try:
                    probe(str(self._client.tracking_uri), self._timeout_s)
                    self._undelivered[0]()
                except Exception as error:  # artifact stores raise the errors of their own libraries
                    self.problem = f"MLflow at {self.uri}: {first_line(error)}"
                    self._retry_at = time.monotonic() + RETRY_SECONDS
                    return
                self._undelivered.popleft()
        self.problem = None

    def _steps_with(self, metric: str) -> set[int]:
        """The steps at which the run has a point of a metric."""
        return {point.step for point in self._client.get_metric_history(self.run_id, metric)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: Any) -> str:
    text = redact(value if isinstance(value, str) else json.dumps(value, default=str))
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), MAX_PARAMS):
        yield items[start : start + MAX_PARAMS]
