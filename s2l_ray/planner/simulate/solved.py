"""How often rollouts are right.

A group in which all are equally right has no advantage and is not trained on, so this decides how many tokens an update
has to go through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from s2l_ray.kinds import Source
from s2l_ray.planner.costs import FloatArray

BoolArray: TypeAlias = npt.NDArray[np.bool_]

WIDEST = 8.0
"""Largest spread that is fitted: nearly every prompt is always or never solved."""
FAR = 60.0
"""A logit beyond which a chance is 0 or 1."""


@dataclass(frozen=True)
class Solved:
    """Logit of a rollout being right: that of its source plus `spread` times its prompt's own N(0, 1)."""

    logits: dict[Source, float]
    spread: float

    def draw(self, rng: np.random.Generator, prompts: int, counts: dict[Source, int]) -> dict[Source, BoolArray]:
        """Draw which rollouts are right: bool [prompts, rollouts] per source that has any."""
        of_prompt = self.spread * rng.standard_normal((prompts, 1))
        right: dict[Source, BoolArray] = {}
        for source, count in counts.items():
            chance = _sigmoid(self.logits[source] + of_prompt) if count else np.zeros((prompts, 1))
            right[source] = rng.random((prompts, count)) < chance
        return right


def fit_solved(splits: Sequence[tuple[int, int, int]], right: dict[Source, int], equal: int) -> Solved:
    """The two logits and the spread that give as many right rollouts and groups without variance as were counted.

    Args:
        splits: (explorer, learner rollouts per group, groups) of every step.
        right: right rollouts of each source over all steps.
        equal: groups over all steps whose rollouts were all right or all wrong.
    """
    from scipy.optimize import brentq

    rollouts: dict[Source, int] = {
        "explorer": sum(explorer * groups for explorer, _, groups in splits),
        "learner": sum(learner * groups for _, learner, groups in splits),
    }
    rates = {source: right.get(source, 0) / count for source, count in rollouts.items() if count}

    def at(spread: float) -> Solved:
        return Solved({source: _logit(rate, spread) for source, rate in rates.items()}, spread)

    def excess(spread: float) -> float:
        found = at(spread)
        return sum(groups * _chance_equal(found, e, n) for e, n, groups in splits) - equal

    low, high = excess(0.0), excess(WIDEST)
    if low >= 0 or high <= 0:
        return at(0.0 if low >= 0 else WIDEST)
    return at(float(brentq(excess, 0.0, WIDEST, xtol=1e-3)))


def _nodes() -> tuple[FloatArray, FloatArray]:
    """Points and weights of the mean over N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(41)
    return points, weights / weights.sum()


def _logit(rate: float, spread: float) -> float:
    """The logit with which the mean chance over prompts is `rate`."""
    from scipy.optimize import brentq

    points, weights = _nodes()
    if not 0 < rate < 1:
        return FAR if rate else -FAR
    return float(brentq(lambda logit: weights @ _sigmoid(logit + spread * points) - rate, -FAR, FAR))


def _chance_equal(solved: Solved, explorer: int, learner: int) -> float:
    """That all rollouts of a group are right, or all wrong."""
    points, weights = _nodes()
    right = wrong = np.ones_like(points)
    counts: dict[Source, int] = {"explorer": explorer, "learner": learner}
    for source, count in counts.items():
        if count:
            chance = _sigmoid(solved.logits[source] + solved.spread * points)
            right, wrong = right * chance**count, wrong * (1 - chance) ** count
    return float(weights @ (right + wrong))


def _sigmoid(x: FloatArray) -> FloatArray:
    chance: FloatArray = 1 / (1 + np.exp(-np.clip(x, -FAR, FAR)))
    return chance
