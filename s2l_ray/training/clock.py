"""What the seconds of an update were spent on."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch


class Part(NamedTuple):
    """One stretch of an update."""

    name: str
    """See `s2l_ray.timing.attribution.UPDATE_PARTS`."""
    start: float
    end: float
    """Seconds since the epoch."""


class UpdateClock:
    """Puts the time of an update down to its parts, which follow each other without a gap.

    On CUDA a part begins when the device gets to it: the marks are events in its stream, so that taking them waits for
    nothing. `begin` and `stop` wait for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"

    def begin(self, part: str) -> None:
        """A new update begins, with this part."""
        if self._on_device:
            torch.cuda.synchronize()
        self._start = time.time()
        self._names, self._marks = [part], [self._mark()]

    def enter(self, part: str) -> None:
        """From here on it is this part."""
        if part != self._names[-1]:
            self._names.append(part)
            self._marks.append(self._mark())

    def stop(self) -> list[Part]:
        """The last part ends. All parts of the update, in order."""
        self._marks.append(self._mark())
        if self._on_device:
            torch.cuda.synchronize()
        parts, start = [], self._start
        for name, earlier, later in zip(self._names, self._marks, self._marks[1:], strict=False):
            end = start + self._seconds(earlier, later)
            parts.append(Part(name, start, end))
            start = end
        return parts

    def _mark(self) -> float | torch.cuda.Event:
        if not self._on_device:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, earlier: float | torch.cuda.Event, later: float | torch.cuda.Event) -> float:
        return earlier.elapsed_time(later) / 1000 if self._on_device else later - earlier
