"""One MLflow run per training run: configuration, data sets, one batch of metrics per step, evaluations, figures.

Nothing a tracking server does can stop or stall training. `Tracker.open` raises when the server does not answer; after
that, what cannot be delivered is kept and sent with the next step, `problem` says what is wrong, and `finish` raises if
it is still wrong at the end. Each request is bounded by `tracking.timeout_s`.

A resumed run continues the same MLflow run. `log_step` and `log_evaluation` send what has no point yet and ignore the
rest, so a run may replay the steps after its last checkpoint, or all of `steps.jsonl`, without a second point.

MLflow is imported inside functions: its import takes seconds.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.errors import TrackingError
from s2l_ray.kinds import TrackedStatus
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.tracking.mlflow_store import (
    bounded,
    bring_artifacts_home,
    connect,
    continued_run,
    find_experiment,
    first_line,
    locate,
    probe,
    quiet,
    redact,
    what_to_do,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from s2l_ray.config import TrackingConfig

MAX_VALUE = 6000
"""Characters of a parameter's value (MLflow's limit)."""
MAX_PARAMS = 100
"""Parameters or tags of one request (MLflow's limit)."""
MAX_DIGEST = 36
"""Characters of a data set's digest (MLflow's limit)."""
RETRY_SECONDS = 30.0
"""After a failed delivery, none is tried for so long: a server that hangs must not add its timeout to every step."""


class Tracker:
    """The MLflow run of a training run."""

    def __init__(self, client: MlflowClient, uri: str, run: Run, timeout_s: float, resumed: bool) -> None:
        """Use `Tracker.open`."""
        self.uri = redact(uri)
        self.run_id: str | None = run.info.run_id
        self.problem: str | None = None
        """Why the last delivery failed; None when all is delivered."""
        self._client = client
        self._timeout_s = timeout_s
        self._undelivered: deque[Callable[[], None]] = deque()
        self._retry_at = 0.0
        self._params = dict(run.data.params)
        logged = self._steps_with if resumed else lambda metric: set()
        self._steps = logged("alpha")
        self._evaluations = {source: logged(f"eval/{source}/reward") for source in ("explorer", "learner")}

    @classmethod
    def open(cls, config: TrackingConfig, default_store: Path, run_name: str, run_id: str | None = None) -> Tracker:
        """Start a run, or continue `run_id`; a `run_id` that the store does not have (any more) starts a new run.

        Args:
            default_store: directory of mlflow.db and mlartifacts, used when neither tracking.uri nor
                MLFLOW_TRACKING_URI is set.

        Raises:
            TrackingError: the store cannot be used, or the server did not answer within tracking.timeout_s.
        """
        if not config.enabled:
            return NoTracker()
        uri, artifacts = locate(config.uri, Path(default_store).resolve())
        try:
            with bounded(config.timeout_s):
                probe(uri, config.timeout_s)
                client = connect(uri)
                experiment_id = find_experiment(client, config, artifacts)
                run = run_id and continued_run(client, run_id)
                resumed = bool(run)
                run = run or client.create_run(experiment_id, run_name=run_name)
                run = bring_artifacts_home(client, run, artifacts)
                return cls(client, uri, run, config.timeout_s, resumed)
        except TrackingError:
            raise
        except Exception as error:  # a store raises MLflow's, SQLAlchemy's, sqlite's, socket's or its driver's errors
            raise TrackingError(f"MLflow at {redact(uri)} cannot be used: {what_to_do(uri, error)}") from None

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
        """Deliver in order. What fails stays first in line."""
        self._undelivered.append(delivery)
        if not now and time.monotonic() < self._retry_at:
            return
        # What MLflow logs of a failed delivery (pages, of a locked database) is said in one line by `problem`.
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
        return {point.step for point in self._client.get_metric_history(self.run_id, metric)}


class NoTracker(Tracker):
    """tracking.enabled=false: every call does nothing."""

    def __init__(self) -> None:
        self.uri, self.run_id, self.problem = None, None, None

    def log_params(self, values: Mapping[str, Any]) -> None: ...

    def log_step(self, record: StepRecord) -> None: ...

    def log_evaluation(self, record: EvaluationRecord, when: str) -> None: ...

    def set_tag(self, key: str, value: str) -> None: ...

    def log_dataset(self, name: str, path: Path, digest: str, rows: int, context: str) -> None: ...

    def log_text(self, text: str, artifact_file: str) -> None: ...

    def log_artifact(self, path: Path, folder: str | None = None) -> None: ...

    def finish(self, status: TrackedStatus = "FINISHED") -> None: ...


def step_metrics(record: StepRecord) -> dict[str, float]:
    """A step's metrics by MLflow name. A source without rollouts in the step has no reward."""
    metrics: dict[str, float | None] = {
        "alpha": record.alpha,
        "G_w": record.explorer_per_group,
        "G_s": record.learner_per_group,
        "reward": record.reward,
        "tokens": record.tokens,
        "zero_variance_groups": record.zero_variance_groups,
        "groups": record.groups,
        "weight_version": record.weight_version,
        "refilled_groups": record.refilled_groups,
        "explorer_only_groups": record.explorer_only[0],
        "compared_groups": record.explorer_only[1],
    }
    metrics |= {f"engines/{source}": count for source, count in record.engines.items()}
    for source, stats in record.sources.items():
        metrics[f"rollouts/{source}"] = stats.rollouts
        metrics[f"tokens/{source}"] = stats.response_tokens
        if stats.rollouts:
            metrics[f"reward/{source}"] = stats.reward
            metrics[f"truncated/{source}"] = stats.truncated
            metrics |= {f"verdicts/{source}/{status}": count for status, count in stats.verdicts.items()}
    # Parts that are phases have the same seconds as those.
    metrics |= {f"seconds/{part}": value for part, value in (record.parts | record.seconds).items()}
    metrics |= {f"busy/{role}": share for role, share in record.busy.items()}
    metrics |= {f"pipeline/{key}": value for key, value in record.pipeline.items()}
    metrics |= {f"trainer/{key}": value for key, value in record.trainer.items()}
    if record.seconds.get("total"):
        metrics["tokens_per_second"] = record.tokens / record.seconds["total"]
    return {key: value for key, value in metrics.items() if value is not None and not math.isnan(value)}


def evaluation_metrics(record: EvaluationRecord) -> dict[str, float]:
    """An evaluation's metrics by MLflow name ("@" is not allowed in one)."""
    metrics = {"reward": record.reward, "response_tokens": record.response_tokens, "seconds": record.seconds}
    metrics |= {f"pass_at_{k}": value for k, value in record.pass_at.items()}
    metrics |= {f"pass_at_{k}_low": low for k, (low, _) in record.ci.items()}
    metrics |= {f"pass_at_{k}_high": high for k, (_, high) in record.ci.items()}
    return {f"eval/{record.model}/{key}": value for key, value in metrics.items()}


def metric_name(name: str) -> str:
    """`name` with what MLflow refuses replaced: letters, digits and _ - . space : / are allowed, in a clean path."""
    name = re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)
    return "/".join(part for part in name.split("/") if part.strip("."))[:250] or "_"


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
