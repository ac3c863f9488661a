"""`undelivered.jsonl`: what MLflow has not confirmed yet, in order. It survives a killed process.

A line is an entry, or the mark that the first N entries of the file were delivered. When nothing is left the file is
emptied; so it is short, but while a server is away.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import UnionType
from typing import IO, Any, get_args

from s2l_ray.errors import DataError, DiskError
from s2l_ray.kinds import EntryKind, TrackedStatus
from s2l_ray.machine.disk import write_whole, writing
from s2l_ray.machine.reading import MISREAD

UNDELIVERED = "undelivered.jsonl"
"""Name of the file in a run directory."""
WORDS: dict[EntryKind, tuple[str, str]] = {
    "metrics": ("step or evaluation", "steps or evaluations"),
    "params": ("set of parameters", "sets of parameters"),
    "tags": ("set of tags", "sets of tags"),
    "dataset": ("input", "inputs"),
    "text": ("text", "texts"),
    "file": ("file", "files"),
    "model": ("model", "models"),
    "model_gone": ("removal of a model", "removals of models"),
    "traces": ("set of traces", "sets of traces"),
    "status": ("status", "statuses"),
}
"""What a user is told that one entry, and that several are."""
OF_TEXTS: tuple[EntryKind, ...] = ("params", "tags")
"""Kinds whose values are texts by any names."""
VALUES: dict[EntryKind, dict[str, type | UnionType]] = {
    "metrics": {"step": int, "time": int, "metrics": dict},
    "dataset": {"name": str, "digest": str, "source": str, "context": str, "profile": dict},
    "text": {"text": str, "file": str},
    "file": {"path": str, "folder": str | None},
    "model": {"name": str, "step": int, "params": dict},
    "model_gone": {"name": str},
    "traces": {"path": str, "step": int, "count": int, "time": int},
    "status": {"status": str, "time": int},
}
"""What the other kinds have, and the types of that."""


@dataclass(frozen=True)
class Entry:
    """One thing that MLflow is to be told."""

    kind: EntryKind
    run_id: str
    """MLflow's id of the run that it belongs to."""
    values: dict[str, Any]
    """As `deliveries` documents them for each kind; JSON values."""

    def to_line(self, number: int) -> str:
        """The entry as a line of the file, the `number`th since it was opened."""
        return json.dumps({"number": number, "kind": self.kind, "run_id": self.run_id, "values": self.values}) + "\n"


class Undelivered:
    """The file of one run while something is added to it and taken from it, by several threads.

    Entries have numbers from 1.

    Args:
        path: of the file, which is made with its directory if need be.
        entries: what it is to hold; other contents are replaced.

    Raises:
        DiskError: it cannot be written.
    """

    def __init__(self, path: Path, entries: Sequence[Entry] = ()) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._last = len(entries)
        self._torn = False
        write_whole(path, "".join(entry.to_line(number) for number, entry in enumerate(entries, start=1)))
        with writing(path):
            # Kept open: on a network file system it is the closing that costs time.
            self._file: IO[bytes] | None = path.open("ab", buffering=0)

    def add(self, entry: Entry) -> None:
        """Put an entry at the end. It outlives the process from here on; `sync` makes it outlive the machine.

        Raises:
            DiskError: it cannot be written. It has its number all the same.
        """
        with self._lock:
            self._last += 1
            self._write(entry.to_line(self._last))

    def delivered(self, number: int) -> None:
        """Take out the entries up to the `number`th. A mark that cannot be written is left out: they are sent again."""
        with self._lock, suppress(DiskError, OSError):
            if number < self._last:
                self._write(json.dumps({"delivered": number}) + "\n")
            elif self._file is not None:
                self._file.truncate(0)

    def sync(self) -> None:
        """Make sure of what was written, also against a power cut."""
        with suppress(OSError, ValueError, AttributeError):  # it may be closed at any time
            os.fsync(self._file.fileno())  # type: ignore[union-attr]

    def close(self) -> None:
        """Leave the file alone from here on: it may be another process's soon. Safe to call twice."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        begin, self._torn = "\n" if self._torn else "", True
        with writing(self.path):
            self._file.write((begin + line).encode())
        self._torn = False


def read_undelivered(path: Path) -> list[Entry]:
    """The entries of a file that were not delivered; [] if there is none.

    The last line may be part of one: the process was killed while it wrote, or the disk was full. It is left out, as is
    whatever else is no entry (`damaged_aside`).

    Raises:
        DataError: it cannot be read.
    """
    return _read(path)[0]


def damaged_aside(path: Path) -> str | None:
    """Keep a copy of a file some of whose lines are no entries, since it is about to be written again without them.

    Returns:
        Which lines, and where the copy is, in a sentence; None if nothing is damaged.

    Raises:
        DataError: the file cannot be read.
        DiskError: the copy cannot be written.
    """
    damaged = _read(path)[1]
    if not damaged:
        return None
    copies = (path.with_name(f"damaged-{number}-{path.name}") for number in count(1))
    copy = next(place for place in copies if not place.exists())
    with writing(copy):
        shutil.copyfile(path, copy)
    lines = f"line {damaged[0]}" if len(damaged) == 1 else f"{len(damaged)} lines, the first of them {damaged[0]},"
    return f"{path}: {lines} cannot be read, so that MLflow may lack what was there; {copy.name} is a copy of the file"


def _read(path: Path) -> tuple[list[Entry], list[int]]:
    """The entries of a file, and the numbers of the lines that are neither entries nor marks."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError):  # whoever writes to it says what is wrong with the directory
        return [], []
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); correct that, or move it away") from None
    entries: dict[int, Entry] = {}
    damaged = []
    for place, line in enumerate(lines, start=1):
        with suppress(*MISREAD):
            row = json.loads(line)
            if "delivered" in row:
                entries = {number: entry for number, entry in entries.items() if number > row["delivered"]}
                continue
            if _is_entry(row):
                entries[row["number"]] = Entry(row["kind"], row["run_id"], row["values"])
                continue
        if line.endswith("\n"):  # else it is the last, of a process that was killed while it wrote
            damaged.append(place)
    return list(entries.values()), damaged


def _is_entry(row: dict[str, Any]) -> bool:
    kind, values = row["kind"], row["values"]
    if not (isinstance(row["number"], int) and isinstance(row["run_id"], str) and isinstance(values, dict)):
        return False
    if kind in OF_TEXTS:
        return all(isinstance(value, str) for value in values.values())
    if kind == "status" and values["status"] not in get_args(TrackedStatus):
        return False
    return all(isinstance(values[key], of) for key, of in VALUES[kind].items())


def in_words(entries: Sequence[Entry]) -> str:
    """How many there are of which kind: "12 steps or evaluations, 2 files"."""
    counts = Counter(entry.kind for entry in entries)
    return ", ".join(f"{count} {WORDS[kind][count > 1]}" for kind, count in counts.items())
