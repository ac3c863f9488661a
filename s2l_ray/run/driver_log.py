"""RUN_DIR/driver.log: what the screen said, a line each, with its time; a resumed run adds to it.

In a Ray job or a batch job the screen is a log elsewhere, which goes with the cluster.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from s2l_ray.display import RunDisplay
from s2l_ray.errors import S2LError
from s2l_ray.machine.console import CommandConsole
from s2l_ray.machine.ending import Ended
from s2l_ray.redaction import redact
from s2l_ray.reporter import Reporter
from s2l_ray.results import EvaluationRecord, StepRecord

DRIVER_LOG = "driver.log"


class DriverLog(Reporter):
    """Passes on to a reporter what happens, and writes it down. Leaving it writes down how the run ended.

    What happens before `open` is kept until then. A log that cannot be written is a note, and does not end a run.

    Args:
        reporter: to pass on to.
        total_steps: schedule.steps.
        name: of the run.
    """

    def __init__(self, reporter: Reporter, total_steps: int, name: str) -> None:
        self._reporter = reporter
        self._file = _StampedLines(reporter.note)
        # typing.IO has more than a console uses
        console = CommandConsole(file=self._file, force_terminal=False, color_system=None)  # type: ignore[arg-type]
        self._lines = RunDisplay(total_steps, name, console)

    def open(self, directory: Path) -> None:
        """Write to driver.log in this directory from here on."""
        self._file.open(directory / DRIVER_LOG)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):  # Ray makes a new one of the signal's own
            by = error.signal.name if isinstance(error, Ended) else "a signal"
            self._file.write(f"stopped by {by}; the same command goes on from the last checkpoint\n")
        elif isinstance(error, S2LError):
            self._file.write(f"error: {error}\n")
        elif error is not None:
            self._file.write("".join(traceback.format_exception(error)))
        self._file.close()

    def phase(self, text: str) -> None:
        """Work outside steps begins."""
        self._reporter.phase(text)
        self._lines.phase(text)

    def progress(self, done: int, total: int) -> None:
        """Part of the work under way is done: a line if it takes long."""
        self._reporter.progress(done, total)
        self._lines.progress(done, total)

    def turn(self, step: int, phase: str) -> None:
        """The driver turns to a phase of a step: no line."""
        self._reporter.turn(step, phase)
        self._lines.turn(step, phase)

    def step(self, record: StepRecord) -> None:
        """A step has ended."""
        self._reporter.step(record)
        self._lines.step(record)

    def evaluation(self, record: EvaluationRecord, when: str) -> None:
        """An evaluation has ended."""
        self._reporter.evaluation(record, when)
        self._lines.evaluation(record, when)

    def note(self, text: str) -> None:
        """Something happened that the user should know."""
        self._reporter.note(text)
        self._lines.note(text)


class _StampedLines(io.TextIOBase):
    """Takes text and appends it to a file, once that is known, with the time before each line.

    Args:
        note: told once if the file cannot be written.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note
        self._kept: list[str] | None = []
        self._path: Path | None = None

    def open(self, path: Path) -> None:
        kept, self._kept, self._path = self._kept, None, path
        self._append("".join(kept or []))

    def write(self, text: str) -> int:
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        stamped = "".join(f"{now}  {line}\n" for line in redact(text).splitlines())  # of any library's messages
        if self._kept is not None:
            self._kept.append(stamped)
        else:
            self._append(stamped)
        return len(text)

    def _append(self, text: str) -> None:
        """Opened anew each time, and whole lines at once: nothing is held back when the process is killed."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            self._path = None
            self._note(f"{DRIVER_LOG} is not written any more: {error.strerror}")
