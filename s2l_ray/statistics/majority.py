"""maj@k, the expected correctness of a majority vote of k samples.

Of a problem's n samples, k vote: the answer that most of them give is that of the vote. maj@k is the mean over all
C(n, k) subsets of size k, which is unbiased, as pass@k is. It is counted, not resampled. A tie between m answers is
broken at random, so it counts 1/m where one of them is right. All right samples are one answer. Samples of which no
answer can be read do not vote; where nobody votes, the vote is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_SAMPLES = 16_000
"""Above, binomials leave the range of extended precision."""


def maj_at_every_k(samples: int, right: int, wrong: Sequence[int]) -> np.ndarray:
    """maj@k of one problem for every k from 1 to n, float64 [n].

    If the right answer has t votes, the ways to give the other answers fewer than t (or exactly t: a tie) are the
    coefficients of a product of binomial polynomials, one for each answer. Its terms are all positive, so that sums in
    floating point lose nothing. Time and memory grow as n^2 for each answer that occurs t times or more.

    Args:
        samples: n.
        right: samples with the right answer.
        wrong: how often each of the wrong answers was given; the rest of the n samples do not vote.

    Raises:
        ValueError: the counts are negative or sum to more than n, or n is outside [1, 16000].
    """
    votes = right + sum(wrong)
    if not 1 <= samples <= MOST_SAMPLES or right < 0 or any(count < 0 for count in wrong) or votes > samples:
        raise ValueError(f"maj@k of {samples} samples with {right} right and {list(wrong)} wrong: they do not add up")
    won = np.zeros(samples + 1, dtype=np.longdouble)
    for t in range(1, right + 1):
        others = _ways(samples - right, [count for count in wrong if count >= t], t)
        last = min(samples, t + len(others) - 1)
        won[t : last + 1] += _choose(right)[t] * others[: last + 1 - t]
    return np.asarray(won[1:] / _choose(samples)[1:], dtype=np.float64)


def _ways(others: int, rivals: Sequence[int], t: int) -> np.ndarray:
    """[j]: ways to take j of the `others` samples with no rival above t, each divided by the answers that tie at t.

    Args:
        others: samples without the right answer.
        rivals: how often the answers occur that can reach t votes; whoever cannot is free.
        t: votes of the right answer.
    """
    by_ties = [_choose(others - sum(rivals))]
    for count in rivals:
        below = _choose(count)[:t]
        tie = np.zeros(t + 1, dtype=np.longdouble)
        tie[t] = _choose(count)[t]
        grown = [np.convolve(ways, below) for ways in by_ties] + [np.zeros(1, dtype=np.longdouble)]
        for ties, ways in enumerate(by_ties):
            grown[ties + 1] = _sum(grown[ties + 1], np.convolve(ways, tie))
        by_ties = grown
    total = np.zeros(1, dtype=np.longdouble)
    for ties, ways in enumerate(by_ties):
        total = _sum(total, ways / (ties + 1))
    return total


def _choose(n: int) -> np.ndarray:
    """C(n, j) for j from 0 to n, in extended precision."""
    row = np.ones(n + 1, dtype=np.longdouble)
    j = np.arange(1, n + 1, dtype=np.longdouble)
    row[1:] = np.cumprod((n + 1 - j) / j)
    return row


def _sum(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The sum of two polynomials."""
    if len(first) < len(second):
        first, second = second, first
    total = first.copy()
    total[: len(second)] += second
    return total
