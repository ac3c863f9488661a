"""pass@k without bias, and its confidence interval over problems.

With n samples of a problem, c of them right, the chance that k samples drawn without replacement hold a right one is
1 - C(n-c, k) / C(n, k): an unbiased estimate of pass@k (Chen et al. 2021, arXiv 2107.03374, equation 1). Binomials
are exact integers here, so the only rounding is one division.

The interval is a percentile bootstrap over problems: problems are what a held-out set samples, the estimates of one
problem are not normal (most are near 0 or 1), and percentiles stay within [0, 1] and may be lopsided. It says what
another draw of problems would give; it says nothing about another training seed. Where all problems have the same
estimate it has no width.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from s2l_ray.statistics.bootstrap import interval, resampled_means_of


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of pass@k from `samples` samples of which `correct` are right; in [0, 1].

    Raises:
        ValueError: not 1 <= k <= samples, or not 0 <= correct <= samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {samples} samples with {correct} correct: need 1 <= k <= n and 0 <= c <= n")
    draws = comb(samples, k)
    return (draws - comb(samples - correct, k)) / draws


def pass_at_every_k(samples: int, correct: Sequence[int] | np.ndarray) -> np.ndarray:
    """Unbiased estimates of pass@k of each problem for every k from 1 to n, float64 [problems, n].

    C(n-c, k) / C(n, k) is the product of (n-c-i) / (n-i) over i < k, so that one cumulative product gives all k with
    a rounding error of at most n units in the last place and no large number.

    Args:
        samples: n, the same for every problem.
        correct: c, right answers per problem, [problems].

    Raises:
        ValueError: n < 1, or a count outside [0, n].
    """
    counts = np.asarray(correct, dtype=np.int64)
    if samples < 1 or (counts.size and not 0 <= counts.min() <= counts.max() <= samples):
        raise ValueError(f"pass@k of {samples} samples: need n >= 1 and 0 <= c <= n for every problem")
    i = np.arange(samples)
    factors = np.maximum(samples - counts[:, None] - i, 0) / (samples - i)
    return np.asarray(1.0 - np.cumprod(factors, axis=1))


def evaluate_counts(
    correct: Sequence[int], samples: int, k: Sequence[int], confidence: float, seed: int
) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """Mean pass@k over problems and its bootstrap interval.

    Args:
        correct: right answers per problem, [problems].
        samples: n, the same for every problem.
        k: the k's to estimate, each <= n.
        confidence: level of the interval, for example 0.95.
        seed: of the bootstrap; every k sees the same resampled sets of problems.

    Returns:
        k -> estimate, and k -> (low, high).

    Raises:
        ValueError: no problems, a confidence outside (0, 1), or a count or k that does not fit `samples`.
    """
    if not len(correct):
        raise ValueError("pass@k of no problems")
    values, problems = _values([np.asarray(correct)], samples, k)
    return _bootstrap(values[0], problems, k, confidence, seed)


def paired_change(
    before: Sequence[int], after: Sequence[int], samples: int, k: Sequence[int], confidence: float, seed: int
) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """Mean change of pass@k of the same problems, and its interval.

    Both evaluations see the same resampled problems, so how hard the problems are cancels: the interval is narrower
    than the difference of two independent ones. It is the one to read when asking whether training changed anything.

    Args:
        before: right answers per problem, [problems].
        after: likewise, in the same order.
        samples: as in `evaluate_counts`, like what follows.
        k: of pass@k.
        confidence: level of the interval.
        seed: of the bootstrap.

    Returns:
        k -> change in [-1, 1], and k -> (low, high).

    Raises:
        ValueError: there are no problems, or not as many after as before; or as `evaluate_counts`.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"a paired change needs the same problems twice, got {len(before)} and {len(after)}")
    values, problems = _values([np.asarray(before), np.asarray(after)], samples, k)
    return _bootstrap(values[1] - values[0], problems, k, confidence, seed)


def _values(counts: list[np.ndarray], samples: int, k: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Estimates [distinct, k] for each of `counts`, at distinct (tuples of) counts; and how many problems have each.

    A problem's estimate depends on its counts alone, so resampling problems is resampling the histogram of counts.
    """
    distinct, problems = np.unique(np.stack(counts, axis=1), axis=0, return_counts=True)
    columns = [np.array([[pass_at_k(samples, int(c), i) for i in k] for c in column]) for column in distinct.T]
    return columns, problems


def _bootstrap(
    values: np.ndarray, problems: np.ndarray, k: Sequence[int], confidence: float, seed: int
) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """Mean of `values` [distinct counts, k], weighted by `problems` [distinct counts], and its percentile interval."""
    means = problems @ values / problems.sum()
    low, high = interval(resampled_means_of(values, problems, seed), confidence)
    estimates = {i: float(mean) for i, mean in zip(k, means, strict=True)}
    return estimates, {i: (float(a), float(b)) for i, a, b in zip(k, low, high, strict=True)}
