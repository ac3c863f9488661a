"""The temperature at which the learner is right as often as another policy: pass@1 is matched by bisection.

pass@1 falls as the temperature rises, above the temperature where it is highest. Bisection over log T between two ends
that enclose the wanted pass@1 keeps the difference's signs at its ends, so it converges also where noise of sampling
makes the curve uneven; what it ends at was sampled, and is reported with its pass@1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from s2l_ray.errors import DataError

LOWEST, HIGHEST = 0.1, 2.0
"""The temperatures between which is sought: the lowest, as a multiple of the learner's, and the highest of vLLM."""
MOST_TRIALS = 10


@dataclass(frozen=True)
class Match:
    """What the search ended at."""

    temperature: float
    pass_at_1: float
    wanted: float
    within: bool
    """Whether the difference is within the tolerance."""
    trials: dict[float, float]
    """Temperature -> pass@1, of every temperature that was sampled."""


def match_temperature(
    pass_at_1: Callable[[float], float], wanted: float, *, start: float, tolerance: float, most: int = MOST_TRIALS
) -> Match:
    """Search it.

    Args:
        pass_at_1: samples the learner at a temperature, and gives its pass@1 on the problems.
        wanted: the other policy's pass@1.
        start: the learner's temperature; the search goes up from it where the learner is better, and down where worse.
        tolerance: the search ends at a difference of at most this.
        most: temperatures to sample.

    Raises:
        DataError: no temperature between LOWEST times `start` and HIGHEST encloses the wanted pass@1.
    """
    trials: dict[float, float] = {}

    def above(temperature: float) -> bool:
        trials[temperature] = pass_at_1(temperature)
        return trials[temperature] > wanted

    def found(temperature: float) -> bool:
        return abs(trials[temperature] - wanted) <= tolerance

    low = high = start
    better = above(start)
    if not found(start):
        end = HIGHEST if better else LOWEST * start
        if above(end) == better and not found(end):
            raise DataError(
                f"the learner's pass@1 is {trials[start]:.1%} at temperature {start:g} and {trials[end]:.1%} at "
                f"{end:g}: no temperature between makes it {wanted:.1%}; compare at matched samples instead"
            )
        low, high = min(start, end), max(start, end)
    while len(trials) < most and not any(map(found, trials)):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if above(middle) else (low, middle)
    best = min(trials, key=lambda temperature: abs(trials[temperature] - wanted))
    return Match(best, trials[best], wanted, found(best), trials)
