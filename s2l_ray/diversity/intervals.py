"""Estimates with bootstrap intervals over problems, and paired differences of them.

Every statistic here is a function of the number of times that each problem counts: 1 each for the estimate itself, and
a multinomial draw for each resample. All statistics of the same problems and seed see the same resamples, so that the
difference of two is paired: how hard the problems are cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2l_ray.seeds import generator
from s2l_ray.statistics.bootstrap import Estimate, interval

Floats = NDArray[np.float64]

RESAMPLES = 2000
SMALLEST = 0.5
"""Share of the resamples in which a statistic must exist."""


@dataclass(frozen=True)
class Resampled:
    """A statistic of the problems, and of each resample of them."""

    value: float
    draws: Floats
    """float64 [resamples]; NaN where the statistic does not exist."""

    def __sub__(self, other: Resampled) -> Resampled:
        """The paired difference of two statistics of the same problems."""
        return Resampled(self.value - other.value, self.draws - other.draws)

    def map(self, function: Callable[[Any], Any]) -> Resampled:
        """A function of the statistic, which takes floats and arrays."""
        return Resampled(float(function(self.value)), function(self.draws))

    def estimate(self, confidence: float) -> Estimate | None:
        """The value and its percentile interval at a level of confidence in (0, 1).

        None where the statistic does not exist, for the problems as they are or for most of the resamples.
        """
        known = self.draws[np.isfinite(self.draws)]
        if not np.isfinite(self.value) or len(known) < SMALLEST * len(self.draws):
            return None
        low, high = interval(known, confidence)
        return Estimate(self.value, float(low), float(high))


class Bootstrap:
    """The resamples of P problems.

    Args:
        problems: P.
        seed: of the resamples.
        resamples: how many.
    """

    def __init__(self, problems: int, seed: int, resamples: int = RESAMPLES) -> None:
        drawn = generator(seed).multinomial(problems, np.full(problems, 1 / problems), size=resamples)
        self.weights: Floats = np.vstack([np.ones(problems), drawn])
        """float64 [1 + resamples, P]: how often each problem counts; the first row is the problems as they are."""

    def statistic(self, values: Floats) -> Resampled:
        """A statistic that was computed for each row of `weights`, float64 [1 + resamples]."""
        return Resampled(float(values[0]), values[1:])

    def mean(self, values: Floats) -> Resampled:
        """The mean over problems of float64 [P]; a problem that is NaN does not count."""
        known = np.isfinite(values)
        return self.ratio(np.where(known, values, 0.0), known.astype(np.float64))

    def ratio(self, numerators: Floats, denominators: Floats) -> Resampled:
        """The sum of numerators over the sum of denominators, each float64 [P] with a part for each problem."""
        return self.statistic(divided(self.weights @ numerators, self.weights @ denominators))


def divided(numerators: Floats, denominators: Floats) -> Floats:
    """The quotients; NaN where the denominator is not above 0."""
    quotients = np.full(np.shape(numerators), np.nan)
    np.divide(numerators, denominators, out=quotients, where=denominators > 0)
    return quotients
