"""`steps.jsonl`: the steps of a run, one record a line, written as they end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from s2l_ray.errors import DataError
from s2l_ray.machine.disk import append, write_whole, writing
from s2l_ray.machine.reading import MOST_LOG_BYTES, read_bounded
from s2l_ray.results import StepRecord, finite


class StepLog:
    """`steps.jsonl`: one StepRecord a line, on disk when `append` returns.

    A process that is killed while it writes leaves part of a line at the end. That line counts as not written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def read(self) -> list[StepRecord]:
        """All whole records, in the order written; [] when there is no file.

        Raises:
            DataError: a whole line is not a StepRecord of this version.
        """
        if not self.path.exists():
            return []
        try:
            lines = read_bounded(self.path, MOST_LOG_BYTES).decode(errors="replace").splitlines(keepends=True)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from error
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                records.append(StepRecord.from_json(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
                if number == len(lines) and not line.endswith("\n"):
                    break
                raise DataError(f"{self.path}, line {number}: {_what_it_is(line)}") from None
        return records

    def append(self, record: StepRecord) -> None:
        """Add a record at the end.

        Raises:
            DiskError: it cannot be written.
            DataError: the file ends in part of a line, and a line before that is not a StepRecord.
        """
        if not self._ends_whole():
            write_whole(self.path, "".join(map(_line, self.read())))
        append(self.path, _line(record))

    def copy_to(self, path: Path) -> None:
        """Copy the file for a checkpoint. Bytes are copied: writing thousands of records again takes seconds."""
        if self.path.exists():
            with writing(path):
                shutil.copyfile(self.path, path)

    def restore(self, path: Path) -> None:
        """Take the contents of a file that `copy_to` wrote; whatever this file held, such as later steps, is gone."""
        write_whole(self.path, path.read_text(encoding="utf-8") if path.exists() else "")

    def clear(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _ends_whole(self) -> bool:
        """Whether the next line would start at its beginning: a killed process may have left no newline at the end."""
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def _what_it_is(line: str) -> str:
    """What a line is that is not a StepRecord, and what to do."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and isinstance(row.get("step"), int):
        return "written by another version of s2l-ray; read it with that version, or start anew in another run_dir"
    return "not a step record; restore the file, or start anew in another run_dir"


def _line(record: StepRecord) -> str:
    return json.dumps(finite(record.to_json()), allow_nan=False) + "\n"
