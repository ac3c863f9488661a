"""The seconds of an update, attributed to its parts."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol, Self

import torch


class UpdatePart(NamedTuple):
    """One stretch of an update."""

    name: str
    """See `s2l_ray.timing.attribution.UPDATE_PARTS`."""
    start: float
    end: float
    """Seconds since the epoch."""


class UpdateClock:
    """Attributes the time of an update to its parts, which follow each other without a gap.

    On CUDA a part begins when the device gets to it: the marks are events in its stream, so that taking them waits for
    nothing. `begin` and `stop` wait for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"

    def begin(self, part: str) -> None:
        """Start a new update, with this part."""
        if self._on_device:
            torch.cuda.synchronize()
        self._start = time.time()
        self._names, self._marks = [part], [self._mark()]

    def enter(self, part: str) -> None:
        """End the present part, and begin this one unless it is the same."""
        if part != self._names[-1]:
            self._names.append(part)
            self._marks.append(self._mark())

    def stop(self) -> list[UpdatePart]:
        """End the last part, and return all parts of the update in order."""
        self._marks.append(self._mark())
        if self._on_device:
            torch.cuda.synchronize()
        parts, start = [], self._start
        for name, earlier, later in zip(self._names, self._marks, self._marks[1:], strict=False):
            end = start + earlier.seconds_to(later)
            parts.append(UpdatePart(name, start, end))
            start = end
        return parts

    def _mark(self) -> _Mark:
        return _DeviceMark() if self._on_device else _HostMark()


class _Mark(Protocol):
    """A point in time, taken when it is made."""

    def seconds_to(self, later: Self) -> float:
        """From this mark to a later one of the same kind."""


class _HostMark:
    def __init__(self) -> None:
        self._time = time.perf_counter()

    def seconds_to(self, later: _HostMark) -> float:
        return later._time - self._time


class _DeviceMark:
    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def seconds_to(self, later: _DeviceMark) -> float:
        milliseconds: float = self._event.elapsed_time(later._event)
        return milliseconds / 1000
