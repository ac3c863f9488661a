"""When what was done: the periods that a step's seconds are accounted from, and that a timeline is drawn of."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """One piece of work."""

    track: str
    """Who did it: "driver", "explorer 0", "learner 1", "verifier 0", "trainer 0"."""
    name: str
    """What: see `ACTIVITIES`."""
    step: int
    start: float
    end: float
    """Seconds since the epoch."""
