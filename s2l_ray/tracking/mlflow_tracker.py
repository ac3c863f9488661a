"""The MLflow run of a training run. What happens in the run becomes entries, which a thread delivers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from s2l_ray.config import TrackingConfig
from s2l_ray.config.dotted import flat
from s2l_ray.errors import TrackingError
from s2l_ray.kinds import EntryKind, Source, TrackedStatus
from s2l_ray.redaction import redact
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.tracking.deliveries import Deliveries
from s2l_ray.tracking.metrics import evaluation_metrics, metric_name, step_metrics
from s2l_ray.tracking.mlflow_store import why_not
from s2l_ray.tracking.opening import OpenedRun, open_run
from s2l_ray.tracking.undelivered import UNDELIVERED, Entry, Undelivered, damaged_aside, in_words, read_undelivered
from s2l_ray.tracking.writer import Writer

MAX_VALUE = 6000
"""Characters of a parameter's value (MLflow's limit)."""
MAX_TAG = 5000
"""Characters of a tag's value (the limit of MLflow before 3.0 and of hosted servers)."""
MAX_DIGEST = 36
"""Characters of a data set's digest (MLflow's limit)."""
STOP_S = 2.0
"""Bound in seconds on the end of a run that is stopped or pruned: its actors are still to end, and somebody waits."""
STATUS_S = 2.0
"""Seconds that are kept for the status at the end of a run."""


OF_STEP = "alpha"
"""Metric that every step has."""
OF_EVALUATION: Mapping[Source, str] = {source: f"eval/{source}/reward" for source in get_args(Source)}
"""Metric that every evaluation of a source has."""


class MlflowTracker:
    """A `Tracker` that delivers to MLflow from a thread of its own.

    A resumed run continues the same MLflow run. `log_step` and `log_evaluation` take what has no point yet and ignore
    the rest, so a run may repeat the steps after its last checkpoint without a second point.

    Args:
        opened: the MLflow run, with the steps at which it has points.
        entries: what was not delivered before.
        directory: of the training run; what is not delivered is kept there.
        timeout_s: bound on the end of the run.
        sent_by: what sends later what is not delivered then, as the end of a sentence.

    Raises:
        DiskError: the directory cannot be written to.
    """

    def __init__(
        self, opened: OpenedRun, entries: Sequence[Entry], directory: Path, timeout_s: float, sent_by: str
    ) -> None:
        self.uri = redact(opened.uri)
        self.run_id: str | None = opened.run_id
        self._directory, self._timeout_s, self._sent_by = directory, timeout_s, sent_by
        self._deliver = Deliveries(opened.client, opened.run, directory, timeout_s)
        before = still_missing(opened, entries)
        left = [entry for entry in before if entry.kind != "status"]  # of an end that is not the end
        self._steps = opened.steps[OF_STEP] | _steps(left, OF_STEP)
        self._evaluations: dict[Source, set[int]] = {
            source: opened.steps[metric] | _steps(left, metric) for source, metric in OF_EVALUATION.items()
        }
        self._damage = damaged_aside(directory / UNDELIVERED)
        self._writer = Writer(Undelivered(directory / UNDELIVERED, left), left, self._deliver, self._explain)
        self._writer.start()

    @classmethod
    def open(
        cls, config: TrackingConfig, directory: Path, run_name: str, run_id: str | None, sent_by: str | None
    ) -> MlflowTracker:
        """Start the MLflow run of a training run, or go on with it, see `tracker.open_tracker`.

        Raises:
            TrackingError, DataError, DiskError: as there.
        """
        entries = read_undelivered(directory / UNDELIVERED)
        metrics = {OF_STEP, *OF_EVALUATION.values(), *metrics_of(entries)}
        opened = open_run(config, directory, run_name, run_id, metrics)
        sent_by = sent_by or f"s2l track {directory} sends them, and so does a resume"
        return cls(opened, entries, directory, config.timeout_s, sent_by)

    @property
    def problem(self) -> str | None:
        """Why something is not delivered, or was refused; None when everything is delivered, or on its way."""
        if self._writer.problem is None and (refused := self._writer.refused):
            return what_is_lost(self.uri, refused[:1])
        return self._writer.problem or self._damage

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log a configuration, nested or flattened. Long values are cut, passwords hidden.

        MLflow's parameters cannot change. A value that a resumed run has changed becomes the tag `resumed/<key>`.
        """
        self._put("params", {metric_name(key): _text(value, MAX_VALUE) for key, value in flat(values).items()})

    def log_step(self, record: StepRecord) -> bool:
        """One batch of metrics at step `record.step`; nothing, and False, if the step has its point already."""
        if record.step in self._steps:
            return False
        self._steps.add(record.step)
        self.log_metrics(step_metrics(record), record.step)
        return True

    def repeat_after(self, step: int) -> None:
        """Steps and evaluations after `step` get further points, beside those that they have."""
        for logged in (self._steps, *self._evaluations.values()):
            logged -= {number for number in logged if number > step}

    def log_evaluation(self, record: EvaluationRecord, when: str) -> None:
        """pass@k with its interval at step `record.step`, as `eval/<model>/pass_at_<k>`; also tagged with `when`."""
        if record.step in self._evaluations[record.model]:
            return
        self._evaluations[record.model].add(record.step)
        self.log_metrics(evaluation_metrics(record), record.step)
        told = f"step {record.step}, weight version {record.weight_version}"
        self.set_tags({f"evaluated/{record.model}/{when}": told})

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics at a step."""
        # The time is fixed here: what is sent twice because an answer was lost is then the same points.
        metrics = {metric_name(key): float(value) for key, value in values.items()}
        self._put("metrics", {"step": step, "time": _now(), "metrics": metrics})

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run; passwords in URIs are hidden."""
        self._put("tags", {metric_name(key): _text(value, MAX_TAG) for key, value in values.items()})

    def log_dataset(self, name: str, source: str, digest: str, context: str, profile: Mapping[str, Any]) -> None:
        """Name data as an input of the run; its content is not copied."""
        values = {"name": name, "source": redact(source), "digest": digest[:MAX_DIGEST], "context": context}
        self._put("dataset", values | {"profile": dict(profile)})

    def log_text(self, text: str, artifact_file: str) -> None:
        """Store `text` as an artifact; passwords in URIs are hidden."""
        self._put("text", {"text": redact(text), "file": artifact_file})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file as an artifact, in `folder` of the run's artifacts: as it is when it is sent."""
        self._put("file", {"path": self._relative(path), "folder": folder})

    def log_traces(self, path: Path, step: int, count: int) -> None:
        """Show the first `count` rollouts of a file of RUN_DIR/rollouts/ as traces."""
        self._put("traces", {"path": self._relative(path), "step": step, "count": count, "time": _now()})

    def log_model(self, name: str, step: int, params: Mapping[str, str]) -> None:
        """Add a model to the run, by what is said of it; its files stay where they are."""
        self._put("model", {"name": name, "step": step, "params": dict(params)})

    def forget_model(self, name: str) -> None:
        """Take a model out again that is not on disk any more."""
        self._put("model_gone", {"name": name})

    def finish(self, status: TrackedStatus = "FINISHED", brief: bool = False) -> None:
        """Deliver what is left, as far as time allows, and end the run.

        A run that finished gets its status last, when all is delivered, or when its time is nearly up. One that was
        stopped or failed gets it at once, beside whatever the thread waits for.

        Raises:
            TrackingError: not everything was delivered; it says how much, why, and what sends it.
        """
        bound = min(self._timeout_s, STOP_S) if brief or status == "KILLED" else self._timeout_s
        deadline = time.monotonic() + bound
        ended = Entry("status", self._run, {"status": status, "time": _now()})
        self._writer.put(ended)
        self._writer.sync()
        if status != "FINISHED" or not self._writer.wait(deadline - min(STATUS_S, bound / 2)):
            took = self._beside(ended, deadline)
            self._writer.wait(deadline)
        else:
            took = True
        self._writer.stop()
        self._say_what_is_left([entry for entry in self._writer.pending if not (took and entry is ended)])

    def _beside(self, entry: Entry, deadline: float) -> bool:
        """Deliver an entry without waiting for those before it; whether MLflow has confirmed it in time."""
        took = threading.Event()

        def deliver() -> None:
            try:
                self._deliver([entry])
            except Exception:
                return  # it is in line as well, where what is wrong is kept
            took.set()

        thread = threading.Thread(target=deliver, name="mlflow-status", daemon=True)
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()))
        return took.is_set()

    def _say_what_is_left(self, pending: list[Entry]) -> None:
        """Raise TrackingError with what is pending, what is lost and what was damaged; nothing if there is none."""
        said = []
        if pending:
            why = self._writer.problem or f"MLflow at {self.uri} is slow"
            said.append(
                f"{why}. It has not confirmed {in_words(pending)} of run {self.run_id}, kept in "
                f"{self._directory / UNDELIVERED}: {self._sent_by}"
            )
        if refused := self._writer.refused:
            said.append(what_is_lost(self.uri, refused))
        if self._damage:
            said.append(self._damage)
        if said:
            raise TrackingError(". ".join(said) + ". Results are not affected")

    def _relative(self, path: Path) -> str:
        """A path in the entries: relative to the run directory where it is in it, since that may be moved."""
        return str(path.relative_to(self._directory) if path.is_relative_to(self._directory) else path)

    @property
    def _run(self) -> str:
        return str(self.run_id)

    def _put(self, kind: EntryKind, values: dict[str, Any]) -> None:
        self._writer.put(Entry(kind, self._run, values))

    def _explain(self, error: BaseException) -> str:
        return f"MLflow at {self.uri}: {why_not(error)}"


def what_is_lost(uri: str, refused: Sequence[tuple[Entry, str]]) -> str:
    """What MLflow will lack, in a sentence: it refused these entries, or files that they name cannot be read."""
    (_, why), more = refused[0], "first: " if len(refused) > 1 else ""
    return f"MLflow at {uri} will lack {in_words([entry for entry, _ in refused])} ({more}{why})"


def metrics_of(entries: Sequence[Entry]) -> set[str]:
    """The metrics by whose points it is seen which entries a run has: the first one of each."""
    return {metric for entry in entries if (metric := _first_metric(entry)) is not None}


def still_missing(opened: OpenedRun, entries: Sequence[Entry]) -> list[Entry]:
    """Those of a run's entries that its MLflow run lacks.

    A process that was killed between a delivery and its note in the file leaves what was delivered there.

    Args:
        opened: the MLflow run, with the steps at which it has points of `metrics_of(entries)`.
        entries: of a file that may be of other runs, too.
    """
    own = [entry for entry in entries if entry.run_id == opened.run_id]
    return [
        entry
        for entry in own
        if (metric := _first_metric(entry)) is None or entry.values["step"] not in opened.steps[metric]
    ]


def _first_metric(entry: Entry) -> str | None:
    return next(iter(entry.values["metrics"]), None) if entry.kind == "metrics" else None


def _steps(entries: list[Entry], metric: str) -> set[int]:
    return {e.values["step"] for e in entries if e.kind == "metrics" and metric in e.values["metrics"]}


def _now() -> int:
    return int(time.time() * 1000)


def _text(value: Any, most: int) -> str:
    text = redact(value if isinstance(value, str) else json.dumps(value, default=str))
    return text if len(text) <= most else text[: most - 3] + "..."
