"""Spans: who did what from when to when. The seconds of a step are accounted, and timelines drawn, from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from s2l_ray.rollouts.records import Period

MOST_INTERVALS = 200
"""Bound on the spans of one actor, activity and step: a verifier that checks a thousand sets has as many periods."""


class Span(NamedTuple):
    """One piece of work."""

    track: str
    """Who did it: "driver", "trainer 0", "learner 1", "explorer 0", "verifier 0", "bank"."""
    name: str
    """What. Engines: explore, generate. Verifiers: verify. Bank: read. Trainer: rank 0 `attribution.UPDATE_PARTS`,
    the others fetch and update.
    Driver: step (all of it), and its phases: hand_over, rollout, update, weight_sync, evaluate, checkpoint."""
    step: int
    """The step that it was done for; 0: for an evaluation."""
    start: float
    end: float
    """Seconds since the epoch."""


def role_of(track: str) -> str:
    """The kind of actor: explorer, of "explorer 0"."""
    return track.split(maxsplit=1)[0]


def number_of(track: str) -> int:
    """The number of an actor among those of its kind: 3, of "explorer 3"; 0 if there is only one."""
    return int(track.split()[1]) if " " in track else 0


def busy(periods: Iterable[Period], most: int = MOST_INTERVALS) -> list[Period]:
    """The union of periods, as disjoint periods in order.

    Args:
        periods: in any order; they may overlap.
        most: bound on the number of periods that are returned; the smallest gaps are closed for it.
    """
    found: list[list[float]] = []
    for start, end in sorted(periods):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([start, end])
    if len(found) > most:
        gaps = sorted(range(1, len(found)), key=lambda i: found[i][0] - found[i - 1][1])
        kept = sorted(gaps[len(found) - most :])
        starts, ends = [0, *kept], [*kept, len(found)]
        found = [[found[a][0], found[b - 1][1]] for a, b in zip(starts, ends, strict=True)]
    return [Period(start, end) for start, end in found]
