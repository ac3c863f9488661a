"""Spans of workers, put together from many small periods: who worked on which step, and what is under way."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from s2l_ray.rollouts.records import Period
from s2l_ray.timing.spans import Span, busy

Activity = tuple[str, str, int]
"""Track, name and step, as in `Span`."""


class WorkLog:
    """Collects the periods of workers that do several pieces of work at once."""

    def __init__(self) -> None:
        self._periods: dict[Activity, list[Period]] = defaultdict(list)
        self._begun: dict[Activity, dict[str, float]] = {}

    def note(self, activity: Activity, period: Period | None) -> None:
        """Add a period in which a worker worked; None: it did not."""
        if period is not None:
            self._periods[activity].append(period)

    @contextmanager
    def under_way_in(self, activity: Activity, piece: str) -> Iterator[None]:
        """Count a piece of work as under way during the block; `piece` tells it from others of the same activity."""
        begun = self._begun.setdefault(activity, {})
        begun[piece] = time.time()
        try:
            yield
        finally:
            del begun[piece]
            if not begun:
                del self._begun[activity]

    def take(self) -> list[Span]:
        """The spans of what was noted since the last call."""
        found, self._periods = self._periods, defaultdict(list)
        return [Span(*activity, *period) for activity, periods in found.items() for period in busy(periods)]

    def under_way(self) -> list[Span]:
        """The spans of all activities that go on: from their oldest piece until now."""
        now = time.time()
        return [Span(*activity, min(begun.values()), now) for activity, begun in self._begun.items()]
