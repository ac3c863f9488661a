"""The time accounts of a run: one entry a step, in the record and in the trace file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.rollouts.records import Period
from s2l_ray.timing.attribution import attribute, busy_shares
from s2l_ray.timing.clock import StepClock
from s2l_ray.timing.spans import Span
from s2l_ray.timing.trace import TraceFile


@dataclass(frozen=True)
class StepTimes:
    """See `StepRecord` for what they are."""

    seconds: dict[str, float]
    parts: dict[str, float]
    busy: dict[str, float]


class TimeSheet:
    """Steps follow each other without a gap: what the driver does after one is recorded counts to the next.

    Args:
        trace: takes every step's spans.
        on_phase: told what the driver turns to in a step.
    """

    def __init__(self, trace: TraceFile, on_phase: Callable[[int, str], None] = lambda step, name: None) -> None:
        self.trace = trace
        self._on_phase = on_phase
        self._forget()

    def _forget(self) -> None:
        self._ended: float | None = None
        self._shares_from: float | None = None
        self._updated: list[Span] = []

    def resume_after(self, step: int) -> None:
        """The run goes on after `step`: what was entered of later ones is forgotten, in the trace file too."""
        self._forget()
        self.trace.truncate_after(step)

    def begin(self, step: int) -> StepClock:
        """The clock of a step that begins now, or began when the one before was entered."""
        clock = StepClock(step, self._ended, lambda name: self._on_phase(step, name))
        if self._shares_from is None:
            self._shares_from = clock.start
        return clock

    def end(
        self,
        clock: StepClock,
        sampled: Sequence[Span],
        under_way: Sequence[Span],
        updated: Sequence[Span],
        engines: Mapping[str, int],
        details: Mapping[str, Any],
    ) -> StepTimes:
        """Enter a step that ends now.

        Args:
            sampled: what engines, verifiers and bank have finished since the step before was collected.
            under_way: what they had begun and not finished when this step was.
            updated: the trainer's.
            engines: how many of each role there are.
            details: of the step, for the trace file.
        """
        whole = clock.whole()
        seconds: dict[str, float] = {}
        for phase in clock.phases:
            seconds[phase.name] = seconds.get(phase.name, 0.0) + phase.end - phase.start
        self.trace.append([whole, *clock.phases, *sampled, *updated], details)
        times = StepTimes(
            seconds=seconds | {"total": whole.end - whole.start},
            parts=attribute(whole, clock.phases, [*sampled, *updated]),
            busy=self._shares([*sampled, *under_way], engines),
        )
        self._ended, self._updated = whole.end, list(updated)
        return times

    def _shares(self, sampled: Sequence[Span], engines: Mapping[str, int]) -> dict[str, float]:
        """From the groups of the step before to those of this one; the update in between is the step before's."""
        end = max((span.end for span in sampled), default=self._shares_from)
        window = Period(self._shares_from, end)
        self._shares_from = end
        return busy_shares(window, [*sampled, *self._updated], {"trainer": 1, **engines})
