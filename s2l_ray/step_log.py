"""`steps.jsonl`: the steps of a run, one record a line, as they end."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.machine.disk import append, write_whole, writing
from s2l_ray.results import StepRecord, finite


class StepLog:
    """`steps.jsonl`: one StepRecord a line, on disk when `append` returns.

    A process killed while it writes leaves half a line at the end. It is taken as not written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def read(self) -> list[StepRecord]:
        """All whole records, in the order written; [] when there is no file.

        Raises:
            DataError: a line other than a torn last one is not a StepRecord.
        """
        return [StepRecord.from_json(_with_nan(row)) for row in self._rows()]

    def append(self, record: StepRecord) -> None:
        self._mend()
        append(self.path, _line(record.to_json()))

    def copy_to(self, path: Path) -> None:
        """The log as it is, for a checkpoint: copied, since writing thousands of records anew takes seconds."""
        if self.path.exists():
            with writing(path):
                shutil.copyfile(self.path, path)

    def restore(self, path: Path) -> None:
        """Be the log that was copied to `path`, whatever this one holds: later steps, or none of another run's."""
        write_whole(self.path, path.read_text(encoding="utf-8") if path.exists() else "")

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                StepRecord.from_json(row)
            except (ValueError, TypeError, KeyError, AttributeError):
                if number == len(lines):
                    break
                raise DataError(
                    f"{self.path}, line {number}: not a step record; restore the file, or start anew in another run_dir"
                ) from None
            rows.append(row)
        return rows

    def _mend(self) -> None:
        """Drop what a killed process left after the last newline, so that the next line starts at its beginning."""
        if not self.path.exists() or not self.path.stat().st_size:
            return
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
        if not whole:
            self._rewrite(self._rows())

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        write_whole(self.path, "".join(map(_line, rows)))


def _with_nan(row: dict[str, Any]) -> dict[str, Any]:
    """The trainer's metrics as floats again: null was a number that is not finite."""
    return {**row, "trainer": {key: math.nan if value is None else value for key, value in row["trainer"].items()}}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(finite(row), allow_nan=False) + "\n"
