"""The rows of JSONL and Parquet files, and the errors of malformed rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.errors import DataError
from s2l_ray.machine.places import left_out_of_upload
from s2l_ray.machine.reading import kind_of
from s2l_ray.tasks import git_lfs

if TYPE_CHECKING:
    import pyarrow

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


SUFFIXES = (".jsonl", ".parquet")
"""Of the files that can be read."""
WANTED = "give the path of a .jsonl or .parquet file, of a directory of them, or hf://datasets/ORG/NAME of the Hub"
LONGEST_REASON = 200
"""Characters of a library's reason that a message repeats."""
LONGEST_LINE = 2**26
"""Bytes of a line of JSONL; a longer one is no row, and would fill the memory."""


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
    readers = dict(zip(SUFFIXES, (_read_jsonl, _read_parquet), strict=True))
    try:
        if kind := kind_of(path):
            raise DataError(f"{path} is {kind}; give the path of a {' or '.join(SUFFIXES)} file")
        pointer = git_lfs.is_pointer(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist{left_out_of_upload(path)}; {WANTED}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its path and permissions") from error
    except ValueError:
        raise DataError(f"{str(path)!r} is no path: it has a NUL character in it; {WANTED}") from None
    if pointer:
        raise DataError(f"{path} is a git-lfs pointer, not the file itself; {git_lfs.remedy(path)}")
    if path.suffix not in readers:
        raise DataError(f"{path}: unknown type {path.suffix!r}; rename or convert it to {' or '.join(readers)}")
    try:
        yield from readers[path.suffix](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def check_encodable(text: str, where: str) -> None:
    """JSON can write half of a surrogate pair. Tokenizers and Parquet, which are of UTF-8, cannot take one.

    Raises:
        DataError: there is one; `where` names file, line and field.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start + 1} is {text[error.start]!a}, half of a surrogate pair, which UTF-8 "
            "cannot encode; remove it"
        ) from None


def names_in(row: dict[str, Any]) -> str:
    """The fields of a row in a message: not more than ten of them."""
    names = [name if len(name) <= 40 else f"{name[:37]}..." for name in sorted(row)]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def shown(value: Any) -> str:
    """A value in a message: not more than 80 characters of it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    with path.open("rb") as lines:
        beginning = lines.read(8)
        for mark, what in _OTHER_TYPES.items():
            if beginning.startswith(mark):
                raise DataError(f"{path} is {what}; convert it to JSONL in UTF-8, or give it the suffix of its type")
        lines.seek(0)
        number = 0
        while line := lines.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise DataError(f"{path}, line {number}: longer than {LONGEST_LINE / 2**20:.0f} MiB; one row a line")
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
        return DataError(f'{where}: {shown(row)} is not a JSON object; write {{"question": ..., "answer": ...}}')
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _record_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{shown(twice)} is given twice")
    return record


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(f"{path}: it has two columns {shown(twice)}; write it with one of them")
            number = 0
            for batch in file.iter_batches(1024):
                for row in _parquet_rows(batch, path, number + 1):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, ArithmeticError) as error:  # of a damaged file's pages
        raise DataError(f"{path}: not a readable Parquet file ({_brief(error)}); write it again") from None


def _parquet_rows(batch: pyarrow.RecordBatch, path: Path, first: int) -> list[dict[str, Any] | DataError]:
    try:
        rows: list[dict[str, Any] | DataError] = batch.to_pylist()
        return rows
    except UnicodeDecodeError as error:  # Parquet's writers need not check their texts
        problem = f"not UTF-8 ({error.reason})"
    except (ValueError, ArithmeticError) as error:  # such as dates that Python does not have
        problem = f"a value that cannot be read ({_brief(error)})"
    if len(batch) == 1:
        return [DataError(f"{path}, line {first}: {problem}; write the file again")]
    return [row for n in range(len(batch)) for row in _parquet_rows(batch.slice(n, 1), path, first + n)]


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST_REASON]
