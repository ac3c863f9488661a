"""The driver's clock of one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from s2l_ray.timing.spans import Span

DRIVER = "driver"
PHASES = ("hand_over", "rollout", "update", "weight_sync", "evaluate", "checkpoint")
"""The phases of a step, in the order in which the driver goes through them."""


class StepClock:
    """Times the phases of a step.

    Args:
        step: 1-based.
        start: when it began, in seconds since the epoch; None: now.
        on_phase: told the name of each phase as it begins.
    """

    def __init__(
        self, step: int, start: float | None = None, on_phase: Callable[[str], None] = lambda name: None
    ) -> None:
        self.step = step
        self._on_phase = on_phase
        # Spans of several processes are compared, so they are in seconds since the epoch; but that clock may be set.
        self._epoch = time.time() - time.monotonic()
        self.start = self._now() if start is None else min(start, self._now())
        self.phases: list[Span] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as a phase; `name` is one of `PHASES`."""
        self._on_phase(name)
        start = self._now()
        yield
        self.phases.append(Span(DRIVER, name, self.step, start, self._now()))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, of those that have ended."""
        seconds: dict[str, float] = {}
        for phase in self.phases:
            seconds[phase.name] = seconds.get(phase.name, 0.0) + phase.end - phase.start
        return seconds

    def whole(self) -> Span:
        """The span of the step so far."""
        return Span(DRIVER, "step", self.step, self.start, self._now())

    def _now(self) -> float:
        return self._epoch + time.monotonic()
