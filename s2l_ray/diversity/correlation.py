"""Whether a policy deviates from the learner step by step, or persistently: correlations of deviations.

A token's deviation is its surprise under the learner less the surprise that was to be expected there, in nats:

    d_t = -log p_T(y_t | y_<t) - H(p_T(. | y_<t))

with p_T the learner at temperature T, and T chosen such that the deviations of a source add up to 0: the temperature
under which its rollouts are likeliest (`scores.best_temperature`). In rollouts of the learner at any temperature, T
comes out as that temperature and d is a martingale difference: whatever came before, its expectation is 0. So all
correlations below are 0 for noise that is drawn anew at each token. They are not for a policy that differs from
the learner in its parameters, and so always in the same way where it comes to the same place.

All correlations have a known mean of 0 and are not centred: a mean that is estimated would bias them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2l_ray.diversity.intervals import Bootstrap, Resampled, divided

Floats = NDArray[np.float64]
Groups = Callable[[Sequence[int]], Iterator[object]]
"""The group of each token of a response."""


@dataclass(frozen=True)
class Deviations:
    """The deviations of one problem's rollouts."""

    token_ids: list[Sequence[int]]
    """Of each response."""
    values: list[Floats]
    """float64 [tokens] of each response, in nats."""


def autocorrelation(problems: Sequence[Deviations], lags: Sequence[int], bootstrap: Bootstrap) -> dict[int, Resampled]:
    """Correlation of deviations that are `lag` tokens apart in a response.

        r_l = sum d_t d_(t+l) / sqrt(sum d_t^2  sum d_(t+l)^2)

    over all pairs of tokens of all responses that are l apart; in [-1, 1], without a unit. NaN where there is no pair.
    """
    return {lag: _of_pairs([_lagged(problem, lag) for problem in problems], bootstrap) for lag in lags}


def within_problem(problems: Sequence[Deviations], bootstrap: Bootstrap) -> Resampled:
    """Intra-class correlation of different rollouts of a problem at the same position, see `_intra_class`."""
    return _intra_class(problems, lambda: lambda tokens: iter(range(len(tokens))), bootstrap)


def within_prefix(problems: Sequence[Deviations], bootstrap: Bootstrap) -> Resampled:
    """Intra-class correlation of different rollouts of a problem after the same tokens, see `_intra_class`.

    What such rollouts have in common depends on nothing but what the policies make of the prefix: it is the share of
    the variance of deviations that is a function of the state.
    """
    return _intra_class(problems, _prefixes, bootstrap)


def _prefixes() -> Groups:
    """Numbers of what comes before each token, the same for equal tokens before it."""
    numbers: dict[tuple[int, int], int] = {}

    def prefixes(tokens: Sequence[int]) -> Iterator[int]:
        before = 0
        for token in tokens:
            yield before
            before = numbers.setdefault((before, int(token)), len(numbers) + 1)

    return prefixes


def _lagged(problem: Deviations, lag: int) -> Floats:
    """Sums over the pairs of a problem: of products, of squares of the earlier and of the later. float64 [3]."""
    pairs = [(d[:-lag], d[lag:]) for d in problem.values if len(d) > lag]
    if not pairs:
        return np.zeros(3)
    early, late = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return np.array([early @ late, early @ early, late @ late])


def _of_pairs(sums: list[Floats], bootstrap: Bootstrap) -> Resampled:
    products, early, late = (bootstrap.weights @ np.array(sums)).T
    return bootstrap.statistic(divided(products, np.sqrt(early * late)))


def _intra_class(problems: Sequence[Deviations], groups: Callable[[], Groups], bootstrap: Bootstrap) -> Resampled:
    """The pairwise intra-class correlation of groups of tokens (Fisher 1925), with its known mean of 0.

        r = sum over groups of m c / sum over groups of m v

    with m the tokens of a group, c the mean of d d' over its pairs of different rollouts and v the mean of d^2. Groups
    of one have no pair and do not count. With d = a_group + noise it is var(a) / (var(a) + var(noise)).
    """
    parts = np.array([_covariance_and_variance(problem, groups()) for problem in problems])
    return bootstrap.ratio(parts[:, 0], parts[:, 1])


def _covariance_and_variance(problem: Deviations, groups: Groups) -> tuple[float, float]:
    covariance = variance = 0.0
    for values in _grouped(problem, groups):
        m, squares = len(values), float(values @ values)
        covariance += (float(values.sum()) ** 2 - squares) / (m - 1)
        variance += squares
    return covariance, variance


def _grouped(problem: Deviations, groups: Groups) -> Iterator[Floats]:
    """The deviations of each group of at least two tokens; a rollout has at most one token in a group."""
    members: dict[object, list[float]] = {}
    for tokens, values in zip(problem.token_ids, problem.values, strict=True):
        for group, value in zip(groups(tokens), values.tolist(), strict=True):
            members.setdefault(group, []).append(value)
    return (np.array(values) for values in members.values() if len(values) > 1)
