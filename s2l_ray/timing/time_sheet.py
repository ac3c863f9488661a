"""The time accounts of a run: one entry for each step, in its record and in the trace file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.kinds import Source
from s2l_ray.rollouts.records import Period
from s2l_ray.timing.attribution import attribute, busy_shares
from s2l_ray.timing.clock import StepClock
from s2l_ray.timing.spans import Span
from s2l_ray.timing.trace import TraceFile


@dataclass(frozen=True)
class StepTimes:
    """The times of a step, as in `StepRecord`."""

    seconds: dict[str, float]
    parts: dict[str, float]
    busy: dict[str, float]


class TimeSheet:
    """Enters steps one after the other, without a gap: what the driver does after one is entered counts for the next.

    Args:
        trace: takes the spans of every step.
        on_phase: told the step and the name of each phase as it begins.
    """

    def __init__(self, trace: TraceFile, on_phase: Callable[[int, str], None] = lambda step, name: None) -> None:
        self.trace = trace
        self._on_phase = on_phase
        self._forget()

    def _forget(self) -> None:
        self._ended: float | None = None
        self._collected: float | None = None  # when the groups of the step before were complete
        self._updated: list[Span] = []

    def resume_after(self, step: int) -> None:
        """Forget the entries of steps after `step`, in the trace file too: the run resumes there."""
        self._forget()
        self.trace.truncate_after(step)

    def begin(self, step: int) -> StepClock:
        """The clock of a step that begins now, or began when the one before was entered."""
        return StepClock(step, self._ended, lambda name: self._on_phase(step, name))

    def end(
        self,
        clock: StepClock,
        sampled: Sequence[Span],
        under_way: Sequence[Span],
        updated: Sequence[Span],
        engines: Mapping[Source, int],
        details: Mapping[str, Any],
    ) -> StepTimes:
        """Enter a step that ends now.

        Args:
            clock: of the step.
            sampled: what engines, verifiers and bank finished since the step before was collected.
            under_way: what they had begun and not finished when this step was collected.
            updated: what the trainer's ranks did.
            engines: number of engines by source.
            details: shown with the step in the trace file.
        """
        whole = clock.whole()
        self.trace.append([whole, *clock.phases, *sampled, *updated], details)
        times = StepTimes(
            seconds=clock.seconds | {"total": whole.end - whole.start},
            parts=attribute(whole, clock.phases, [*sampled, *updated]),
            busy=self._busy(whole.start, [*sampled, *under_way], engines),
        )
        self._ended, self._updated = whole.end, list(updated)
        return times

    def _busy(self, begun: float, sampled: Sequence[Span], engines: Mapping[Source, int]) -> dict[str, float]:
        """Shares between the groups of the step before and those of this one; the update in between is the former's."""
        start = begun if self._collected is None else self._collected
        self._collected = max((span.end for span in sampled), default=start)
        window = Period(start, self._collected)
        return busy_shares(
            window,
            [*sampled, *self._updated],
            {"trainer": 1} | {str(source): count for source, count in engines.items()},
        )
