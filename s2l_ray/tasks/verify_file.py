"""Check the responses in a JSONL or Parquet file, as `s2l verify` does."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from s2l_ray.errors import DataError
from s2l_ray.kinds import VerdictStatus
from s2l_ray.machine.disk import output_file, writing
from s2l_ray.rollouts.records import Verdict
from s2l_ray.tasks.data import columns_of, final_answer, optional_id
from s2l_ray.tasks.pool import VerifierPool
from s2l_ray.tasks.rows import rows_and_errors
from s2l_ray.tasks.verifier_process import Item
from s2l_ray.tasks.verifiers import NO_OPTIONS, Options


@dataclass(frozen=True)
class VerifySummary:
    """The verdicts on a file, counted."""

    counts: dict[str, int]
    """Number of rows by verdict, for every status."""
    rows: int
    seconds: float
    """Time of checking, without that of starting the workers."""
    failure: str | None
    """File, line and reason of the first row with the verdict `failed`; None if there is none."""

    @property
    def answers_per_second(self) -> float:
        """Rate of checking."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _Row:
    line: int
    id: str | None
    content: Item | DataError
    """What is to be checked, or why the row cannot be."""


def verify_file(
    source: str | Path,
    target: str | Path | None,
    kind: str = "math",
    workers: int = 1,
    timeout_s: float = 5.0,
    on_progress: Callable[[int, int], None] | None = None,
    options: Options = NO_OPTIONS,
    columns: Sequence[str] = (),
) -> VerifySummary:
    """Check every row of `source`: {"answer": gold, "response": text}, with "question" and "id" if wanted.

    For each row, in order, a JSON row with id (if there is one), line, verdict, reward and detail is written to
    `target`. A row that is malformed, or whose check raises an error, has the verdict `failed`, and the reason as its
    detail.

    Rows are written to `TARGET.partial`, which is renamed when it is complete. After an interruption it has the rows
    that were checked.

    Args:
        source: JSONL or Parquet file.
        target: JSONL file; its directory is created and an older file replaced; of a link, what it leads to. None
            writes nothing.
        kind: verifier.kind of a configuration.
        workers: number of processes.
        timeout_s: verifier.timeout_s of a configuration.
        on_progress: called with (number of rows done, number of rows).
        options: VerifierConfig.options of a configuration.
        columns: verifier.columns of a configuration; every row must have them.

    Raises:
        DataError: `source` has no rows or cannot be read, or is `target`.
        DiskError: `target` cannot be written, or is no file, which is found before anything is checked.
        ConfigError: the verifier cannot be imported.
        VerifierError: its workers cannot start.
    """
    source, target = Path(source), None if target is None else output_file(Path(target))
    rows = [_read(row, number, f"{source}, line {number}", columns) for number, row in rows_and_errors(source)]
    if not rows:
        raise DataError(f'{source} has no rows; give it one {{"answer": ..., "response": ...}} a line')
    if target is not None and target.exists() and target.samefile(source):
        raise DataError(f"the verdicts would replace {source}; name another file for them")
    counts: Counter[str] = Counter()
    failure = None
    items = [row.content for row in rows if not isinstance(row.content, DataError)]
    with VerifierPool(kind, max(1, min(workers, len(items))), timeout_s, options, columns) as pool:
        pool.start()
        start = time.perf_counter()
        for line in _written(_graded(rows, pool.stream(items)), target):
            counts[line["verdict"]] += 1
            if failure is None and line["verdict"] == "failed":
                where = f"{source}, line {line['line']}"
                failure = line["detail"] if where in line["detail"] else f"{where}: {line['detail']}"
            if on_progress is not None:
                on_progress(counts.total(), len(rows))
        seconds = time.perf_counter() - start
    return VerifySummary({status: counts[status] for status in get_args(VerdictStatus)}, len(rows), seconds, failure)


def _read(row: dict[str, Any] | DataError, number: int, where: str, columns: Sequence[str]) -> _Row:
    if isinstance(row, DataError):
        return _Row(number, None, row)
    id = None
    try:
        id = optional_id(row, where)
        return _Row(number, id, _item(row, where, columns))
    except DataError as error:
        return _Row(number, id, error)


def _item(row: dict[str, Any], where: str, columns: Sequence[str]) -> Item:
    response = row.get("response")
    if not isinstance(response, str):  # an empty response is a response
        raise DataError(f"{where}, field response: a text is needed; the row has {', '.join(sorted(row))}")
    question = row.get("question", "")
    if not isinstance(question, str):
        raise DataError(f"{where}, field question must be a text; correct it or leave it out")
    if "answer" not in row:
        raise DataError(f"{where}, field answer: the gold answer is missing; the row has {', '.join(sorted(row))}")
    answer = final_answer(row["answer"], f"{where}, field answer")
    return response, answer, question, columns_of(row, columns, where)


def _graded(rows: list[_Row], verdicts: Iterator[Verdict]) -> Iterator[dict[str, Any]]:
    for row in rows:
        malformed = isinstance(row.content, DataError)
        yield _line(row, Verdict("failed", 0.0, str(row.content)) if malformed else next(verdicts))


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
        # UTF-8 cannot encode lone surrogates; Python's escapes for them are also JSON's.
        out = partial.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
    try:
        for line in lines:
            with writing(target):
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            yield line
        with writing(target):
            out.close()
            os.replace(partial, target)
    finally:
        with suppress(OSError):  # what a full disk did not take, it does not take now
            out.close()
