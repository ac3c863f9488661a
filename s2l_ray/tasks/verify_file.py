"""Grade a JSONL (or Parquet) file of responses offline, as `s2l verify` does."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from s2l_ray.disk import writing
from s2l_ray.errors import DataError
from s2l_ray.rollout import Verdict, VerdictStatus
from s2l_ray.tasks.data import final_answer, optional_id, read_rows
from s2l_ray.tasks.pool import Item, VerifierPool
from s2l_ray.tasks.verifiers import VerifierError


@dataclass(frozen=True)
class VerifySummary:
    counts: dict[str, int]
    """Rows per verdict status, all statuses included."""
    rows: int
    seconds: float
    """Wall-clock time of checking, without starting the workers."""

    @property
    def answers_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _Row:
    line: int
    id: str | None
    item: Item


def verify_file(
    source: str | Path,
    target: str | Path | None,
    kind: str = "math",
    workers: int = 1,
    timeout_s: float = 5.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> VerifySummary:
    """Check every row of `source`: {"answer": gold, "response": text, and if wanted "question", "id"}.

    One JSON row per input row goes to `target`, in order: id (if there was one), line, verdict, reward, detail. It
    grows as `TARGET.partial` and gets its name when it is complete; after an interruption the partial file has what was
    done.

    Args:
        target: None writes nothing; missing directories are made, an older file is replaced.
        kind, workers, timeout_s: as in the `verifier` section of a configuration.
        on_progress: called with (rows done, rows).

    Raises:
        DataError: a row is malformed; found before anything is checked.
        ConfigError: the verifier cannot be imported.
        VerifierError: the verifier has a bug; the row is named.
    """
    rows = _read(Path(source))
    counts: Counter[str] = Counter()
    with VerifierPool(kind, min(workers, len(rows)), timeout_s) as pool:
        pool.start()
        start = time.perf_counter()
        for line in _written(_graded(rows, pool, Path(source)), target and Path(target)):
            counts[line["verdict"]] += 1
            if on_progress is not None:
                on_progress(counts.total(), len(rows))
        seconds = time.perf_counter() - start
    return VerifySummary({status: counts[status] for status in get_args(VerdictStatus)}, len(rows), seconds)


def _read(path: Path) -> list[_Row]:
    rows = []
    for number, row in read_rows(path):
        where = f"{path}, line {number}"
        response = row.get("response")
        if not isinstance(response, str):  # an empty response is a response
            raise DataError(f"{where}, field response: a text is needed; the row has {', '.join(sorted(row))}")
        question = row.get("question", "")
        if not isinstance(question, str):
            raise DataError(f"{where}, field question must be a text; correct it or leave it out")
        if "answer" not in row:
            raise DataError(f"{where}, field answer: the gold answer is missing; the row has {', '.join(sorted(row))}")
        answer = final_answer(row["answer"], f"{where}, field answer")
        rows.append(_Row(number, optional_id(row, where), (response, answer, question)))
    if not rows:
        raise DataError(f'{path} has no rows; give it one {{"answer": ..., "response": ...}} a line')
    return rows


def _graded(rows: list[_Row], pool: VerifierPool, source: Path) -> Iterator[dict[str, Any]]:
    try:
        for row, verdict in zip(rows, pool.stream([row.item for row in rows]), strict=True):
            yield _line(row, verdict)
    except VerifierError as error:
        if error.index is None:
            raise
        row = rows[error.index]
        name = f" (id {row.id})" if row.id is not None else ""
        raise VerifierError(f"{source}, line {row.line}{name}: {error}", error.index) from None


def _line(row: _Row, verdict: Verdict) -> dict[str, Any]:
    own_id = {} if row.id is None else {"id": row.id}
    return own_id | {"line": row.line, "verdict": verdict.status, "reward": verdict.reward, "detail": verdict.detail}


def _written(lines: Iterator[dict[str, Any]], target: Path | None) -> Iterator[dict[str, Any]]:
    if target is None:
        yield from lines
        return
    partial = target.with_name(target.name + ".partial")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        out = partial.open("w", encoding="utf-8", buffering=1)
    with out:
        for line in lines:
            with writing(target):
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            yield line
    os.replace(partial, target)
