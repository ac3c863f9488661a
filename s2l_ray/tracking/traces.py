"""Rollouts as MLflow traces, to be read and searched in its user interface."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, cast

from s2l_ray.errors import DataError
from s2l_ray.machine.reading import MISREAD, MOST_LOG_BYTES, misread, read_bounded

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo

PREVIEW = 1000
"""Characters of prompt and response in MLflow's list of traces."""
KEYS: dict[str, type | UnionType] = {
    **dict.fromkeys(("prompt_id", "question", "answer", "source", "model", "verdict", "detail", "response"), str),
    **dict.fromkeys(("weight_version", "index", "tokens"), int),
    "reward": int | float,
}
"""What a trace needs of a rollout, and its types."""
UNKNOWN_BEFORE = {"question": "", "answer": ""}
"""Of files that earlier versions have written."""
MS, NS = 1, 10**6
"""A millisecond in milliseconds and nanoseconds."""


def log_rollouts(
    uri: str, run_id: str, experiment_id: str, rows: list[dict[str, Any]], step: int, time_ms: int
) -> None:
    """Log rollouts of a step as traces of a run. Sent again, they replace themselves.

    Args:
        uri: tracking URI.
        run_id: MLflow's id of the run.
        experiment_id: of the run.
        rows: of RUN_DIR/rollouts/.
        step: of the rollouts.
        time_ms: when the step ended.
    """
    from mlflow.tracing.client import TracingClient

    client = TracingClient(uri)
    for row in rows:
        name = f"{run_id} {step} {row['prompt_id']} {row['source']} {row['index']}"
        digest = hashlib.md5(name.encode(), usedforsecurity=False).digest()  # an id of 16 bytes, no secret
        client.start_trace(_info(digest, run_id, experiment_id, row, step, time_ms))
        client.log_spans(experiment_id, [_span(digest, row, time_ms)])


def read_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` rollouts of a file of RUN_DIR/rollouts/.

    Raises:
        DataError: the file cannot be read, or one of these lines is no rollout.
    """
    try:
        lines = read_bounded(path, MOST_LOG_BYTES).splitlines()[:count]  # of bytes: a text may have Unicode's own ends
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return [_row(path, number, line) for number, line in enumerate(lines, start=1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The rollout on a line. Lone surrogates, which a store cannot encode, are replaced."""
    try:
        row = json.loads(line.decode(errors="replace"))
        row = UNKNOWN_BEFORE | json.loads(json.dumps(row, ensure_ascii=False).encode(errors="replace"))
        wrong = [key for key, kind in KEYS.items() if not isinstance(row[key], kind)]
    except MISREAD as error:
        raise DataError(f"{path}, line {number}: this is no rollout ({misread(error)})") from None
    if wrong:
        raise DataError(f"{path}, line {number}: this is no rollout ({wrong[0]!r} is {row[wrong[0]]!r:.80})")
    return cast("dict[str, Any]", row)


def _info(digest: bytes, run_id: str, experiment_id: str, row: dict[str, Any], step: int, time_ms: int) -> TraceInfo:
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    found = {key: str(row[key]) for key in ("prompt_id", "source", "weight_version", "index", "reward", "verdict")}
    return TraceInfo(
        trace_id=f"tr-{digest.hex()}",
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=time_ms,
        state=TraceState.OK,
        request_preview=(row["question"] or row["prompt_id"])[:PREVIEW],
        response_preview=row["response"][:PREVIEW],
        trace_metadata={"mlflow.sourceRun": run_id, "mlflow.trace_schema.version": "3"},
        tags={"mlflow.traceName": "rollout", "step": str(step), **found},
    )


def _span(digest: bytes, row: dict[str, Any], time_ms: int) -> Span:
    from mlflow.entities import Span

    attributes = {
        "mlflow.traceRequestId": f"tr-{digest.hex()}",
        "mlflow.spanType": "LLM",
        "mlflow.spanInputs": {key: row[key] for key in ("prompt_id", "question", "answer") if row[key]},
        "mlflow.spanOutputs": row["response"],
        **{key: row[key] for key in ("source", "model", "weight_version", "reward", "verdict", "detail", "tokens")},
    }
    return Span.from_dict(
        {
            "trace_id": base64.b64encode(digest).decode(),
            "span_id": base64.b64encode(digest[:8]).decode(),
            "parent_span_id": "",
            "name": "rollout",
            "start_time_unix_nano": time_ms * NS,
            "end_time_unix_nano": (time_ms + MS) * NS,
            "events": [],
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {key: json.dumps(value) for key, value in attributes.items()},
        }
    )
