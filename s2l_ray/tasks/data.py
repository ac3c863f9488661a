"""Problems from JSONL and Parquet files, in the simple layout (question, answer) or verl's (prompt, reward_model).

Files in verl's layout repeat rows (DAPO-Math-17k does so a hundred times), so repeated questions are dropped, as the
S2L-PO authors do.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.errors import DataError
from s2l_ray.tasks import git_lfs

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Problem:
    id: str
    """Unique within its file."""
    question: str
    answer: str
    """The final answer alone, for the verifier."""


@dataclass(frozen=True)
class ProblemSet:
    path: str
    problems: list[Problem]
    dropped: int
    """Rows left out because an earlier row has the same question."""
    digest: str
    """16 hex digits over every id, question and answer: equal digests mean the same problems in the same order."""


@dataclass(frozen=True)
class _Row:
    number: int
    """1-based: line of a JSONL file, row of a Parquet file."""
    own_id: str | None
    index_id: str | None
    question: str
    answer: str


def load_problems(path: str | Path, limit: int | None = None) -> ProblemSet:
    """Read a file of problems.

    A problem's id is the row's `id`; else verl's `extra_info.index`, where that is given and different in all rows;
    else file stem and row number, as in `train-000017`.

    Args:
        path: a `.jsonl` or `.parquet` file.
        limit: read only the first rows; repeated questions count.

    Raises:
        DataError: the file is missing, empty or of another type, a row is malformed, or two different questions have
            the same id. File, line, field and remedy are named.
    """
    path = Path(path)
    rows = [_parse(row, number, path) for number, row in islice(read_rows(path), limit)]
    if not rows:
        raise DataError(f"{path} has no rows; give it one problem a line, or name another file")
    first = {}
    for row in rows:
        first.setdefault(row.question.strip(), row)
    problems = _identify(list(first.values()), path)
    return ProblemSet(str(path), problems, len(rows) - len(problems), _digest(problems))


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The (1-based number, record) pairs of a JSONL or Parquet file; blank lines are skipped.

    Raises:
        DataError: the file is missing, cannot be read or is of another type, or a line is not a JSON object in UTF-8.
    """
    for number, row in rows_and_errors(path):
        if isinstance(row, DataError):
            raise row
        yield number, row


def rows_and_errors(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """The same, with what `read_rows` would raise in the place of each malformed row, and the rest after it.

    Raises:
        DataError: the file is missing, cannot be read or is of another type.
    """
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist; give the path of a .jsonl or .parquet file")
        pointer = git_lfs.is_pointer(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its path and permissions") from error
    if pointer:
        raise DataError(f"{path} is a git-lfs pointer, not the file itself; {git_lfs.remedy(path)}")
    if path.suffix not in readers:
        raise DataError(f"{path}: unknown type {path.suffix!r}; rename or convert it to {' or '.join(readers)}")
    try:
        yield from readers[path.suffix](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def final_answer(value: Any, where: str) -> str:
    """A gold answer as text: numbers are written out, and of a GSM8K solution the part after the last `####` is kept.

    Raises:
        DataError: there is no answer; `where` names file, line and field.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not _finite(value):
        raise DataError(f"{where} must be a text or a number, not {_shown(value)}")
    text = str(value).rpartition("####")[2].strip()
    if not text:
        raise DataError(f"{where} is empty; give the final answer")
    return text


def text_field(row: dict[str, Any], field: str, where: str) -> str:
    """A field that must be a non-empty text; `where` names file and line.

    Raises:
        DataError: it is missing, empty or not a text.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        have = f"the row has {', '.join(sorted(row))}" if field not in row else f"it is {_shown(value)}"
        raise DataError(f"{where}, field {field}: a non-empty text is needed; {have}")
    return value


def optional_id(row: dict[str, Any], where: str) -> str | None:
    """The row's `id` as text, if it has one.

    Raises:
        DataError: it is neither a text nor an integer.
    """
    return _id(row.get("id"), f"{where}, field id")


_OTHER_TYPES = {
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "in UTF-16",
    b"\xfe\xff": "in UTF-16",
}
"""By how they begin: files that are not JSONL in any of their lines."""


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    with path.open("rb") as lines:
        beginning = lines.read(8)
        for mark, what in _OTHER_TYPES.items():
            if beginning.startswith(mark):
                raise DataError(f"{path} is {what}; convert it to JSONL in UTF-8, or give it the suffix of its type")
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _json_row(line, f"{path}, line {number}")


def _json_row(line: bytes, where: str) -> dict[str, Any] | DataError:
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_record_of)
    except UnicodeDecodeError as error:
        return DataError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return DataError(f"{where}: not valid JSON ({error}); write one JSON object a line")
    if not isinstance(row, dict):
        return DataError(f'{where}: {_shown(row)} is not a JSON object; write {{"question": ..., "answer": ...}}')
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _record_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{_shown(next(name for name in names if names.count(name) > 1))} is given twice")
    return record


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for row in _parquet_rows(batch, path, number + 1):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); write it again") from None


def _parquet_rows(batch: pyarrow.RecordBatch, path: Path, first: int) -> list[dict[str, Any] | DataError]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:  # Parquet's writers need not check their texts
        if len(batch) == 1:
            return [DataError(f"{path}, line {first}: not UTF-8 ({error.reason}); write the file again")]
        return [row for n in range(len(batch)) for row in _parquet_rows(batch.slice(n, 1), path, first + n)]


def _parse(row: dict[str, Any], number: int, path: Path) -> _Row:
    where = f"{path}, line {number}"
    own_id, index_id = optional_id(row, where), None
    if "prompt" in row and "question" not in row:
        fields = "prompt", "reward_model.ground_truth"
        question = _user_message(row["prompt"], f"{where}, field prompt")
        answer = _record(row, "reward_model", where).get("ground_truth")
        if isinstance(extra := row.get("extra_info"), dict):
            index_id = _id(extra.get("index"), f"{where}, field extra_info.index")
    else:
        fields = "question", "answer"
        question = text_field(row, "question", where)
        if "answer" not in row:
            raise DataError(f"{where}, field answer: missing; the row has {', '.join(sorted(row))}")
        answer = row["answer"]
    answer = final_answer(answer, f"{where}, field {fields[1]}")
    for field, text in zip(("id", "extra_info.index", *fields), (own_id, index_id, question, answer), strict=True):
        _check_encodable(text or "", f"{where}, field {field}")
    return _Row(number, own_id, index_id, question, answer)


def _check_encodable(text: str, where: str) -> None:
    """JSON can write half of a surrogate pair. Tokenizers, which read UTF-8, cannot read one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start + 1} is {text[error.start]!a}, half of a surrogate pair, which UTF-8 "
            "cannot encode; remove it"
        ) from None


def _finite(value: str | int | float) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _record(row: dict[str, Any], field: str, where: str) -> dict[str, Any]:
    value = row.get(field)
    if not isinstance(value, dict):
        raise DataError(f"{where}, field {field}: a record is needed (verl's layout), not {_shown(value)}")
    return value


def _user_message(prompt: Any, where: str) -> str:
    messages = prompt if isinstance(prompt, list) else []
    if len(messages) != 1 or not isinstance(messages[0], dict) or messages[0].get("role") != "user":
        raise DataError(
            f"{where}: one message {{role: user, content: ...}} is needed, not {_shown(prompt)}; "
            "put a system message into data.system, and drop conversations of several turns"
        )
    return text_field(messages[0], "content", where)


def _id(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{where} must be a text or an integer, not {_shown(value)}; correct it or leave it out")
    return str(value)


def _identify(rows: list[_Row], path: Path) -> list[Problem]:
    by_index = len({row.index_id for row in rows} - {None}) == len(rows)
    line_of: dict[str, int] = {}
    problems = []
    for row in rows:
        id = row.own_id or (row.index_id if by_index else None) or f"{path.stem}-{row.number:06d}"
        if id in line_of:
            raise DataError(
                f"{path}, line {row.number}, field id: {id!r} is already the id of line {line_of[id]}, which has "
                "another question; make ids unique or leave them all out"
            )
        line_of[id] = row.number
        problems.append(Problem(id, row.question, row.answer))
    return problems


def _digest(problems: list[Problem]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.question, problem.answer]).encode())
    return digest.hexdigest()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
