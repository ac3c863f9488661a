"""The report of one stage: its measurements, its expectations, and the reason if it was skipped."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from s2l_ray.kinds import CheckStatus
from s2l_ray.machine.disk import write_whole


class Skip(Exception):
    """The stage cannot run here; the message says why."""


@dataclass
class StageResult:
    """One entry of the report."""

    stage: str
    status: CheckStatus
    reason: str = ""
    """The expectations that did not hold, or why the stage was skipped."""
    seconds: float = 0.0
    measured: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    """Whether the stage got to its end."""
    complaints: list[str] = field(default_factory=list)
    """The last lines of standard error of a stage that failed, tracebacks among them."""


class Check:
    """Given to a stage's `run`. Everything is printed, and written to the stage's result file, as it comes.

    Args:
        seconds: until the stage's process is killed.
        file: where the result is written, whole every time.
    """

    def __init__(self, stage: str, seconds: float, file: Path) -> None:
        self._end = time.monotonic() + seconds
        self._file = file
        self._wrong: list[str] = []
        self._result = StageResult(stage, "FAIL")
        self.cuda = torch.cuda.is_available()

    @property
    def seconds_left(self) -> float:
        """Until the stage's process is killed."""
        return self._end - time.monotonic()

    def say(self, text: str) -> None:
        """A line of the report that is for reading only."""
        print(text, flush=True)

    def measure(self, **values: Any) -> None:
        """Numbers, texts, or lists and dictionaries of them, by name."""
        self._result.measured |= values
        self._write()
        for name, value in values.items():
            if not isinstance(value, list | dict):
                self.say(f"{name}: {f'{value:.4g}' if isinstance(value, float) else value}")

    def expect(self, holds: bool, what: str) -> None:
        """If it does not hold, the stage goes on, and has failed."""
        self.say(f"{'ok' if holds else 'WRONG'}  {what}")
        if not holds:
            self._wrong.append(what)
            self._result.reason = "; ".join(self._wrong)
            self._write()  # it counts also where the stage does not end in time

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the stage: an exception in it is a failure of that part, and the next one still runs."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.expect(False, f"{name}: {type(error).__name__}: {str(error)[:300]}")

    def need_gpu(self, instead: str) -> None:
        """End a stage that has no more to do without a GPU. `instead`: what it did.

        Raises:
            Skip: there is no CUDA device, and what was done is right.
        """
        if not self.cuda and not self._wrong:
            raise Skip(f"no CUDA device; {instead}")

    def finish(self, skipped: str | None = None) -> CheckStatus:
        """Write the result: what does not hold makes it a failure, whatever else."""
        self._result.status = "FAIL" if self._wrong else "PASS" if skipped is None else "SKIP"
        self._result.reason = "; ".join(self._wrong) or skipped or ""
        self._result.ended = True
        self._write()
        return self._result.status

    def _write(self) -> None:
        write_json(self._file, asdict(self._result))


def write_json(file: Path, content: Any) -> None:
    """Replace the file at once: whoever reads it finds the whole of the old content or of the new."""
    write_whole(file, json.dumps(content, indent=1) + "\n")
