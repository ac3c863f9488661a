"""How far apart the responses of a problem are, in edits of tokens, and how many clusters they form.

The distance of two responses is the least number of tokens to insert, delete or replace to make one the other
(Levenshtein), over the length of the longer: 0 for equal ones, at most 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    """The edit distance of two token sequences.

    Myers' bit-parallel algorithm (J. ACM 1999) in the form of Hyyrö (2003): a column of the table is two integers of
    one bit for each token of `a`, whose increments by one row are +1 (positive) or -1 (negative).
    """
    if not len(a) or not len(b):
        return max(len(a), len(b))
    places: dict[int, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    every, last = (1 << len(a)) - 1, 1 << len(a) - 1
    positive, negative, distance = every, 0, len(a)
    for token in b:
        equal = places.get(token, 0)
        diagonal = (((equal & positive) + positive) ^ positive) | equal | negative
        right_up = negative | ~(diagonal | positive) & every
        right_down = diagonal & positive
        distance += bool(right_up & last) - bool(right_down & last)
        right_up = right_up << 1 | 1
        right_down <<= 1
        positive = (right_down | ~(diagonal | right_up)) & every
        negative = right_up & diagonal & every
    return distance


def distances(responses: Sequence[Sequence[int]]) -> Floats:
    """The distance of every pair of n responses: float64 [n, n]. Two empty ones are equal.

    Equal responses are compared once.
    """
    unique: dict[tuple[int, ...], int] = {}
    which = np.array([unique.setdefault(tuple(map(int, response)), len(unique)) for response in responses], dtype=int)
    different = list(unique)
    table = np.zeros((len(different), len(different)))
    for i, a in enumerate(different):
        for j in range(i):
            table[i, j] = table[j, i] = levenshtein(a, different[j]) / max(len(a), len(different[j]))
    found: Floats = table[np.ix_(which, which)]
    return found


def mean_distance(table: Floats) -> float:
    """The mean over pairs of different samples, unbiased in their number; NaN with fewer than two samples."""
    n = len(table)
    return float(table.sum() / (n * (n - 1))) if n > 1 else float("nan")


def clusters(table: Floats, threshold: float) -> list[int]:
    """The cluster of each response: complete linkage, so that no two of one cluster are further apart than `threshold`.

    Args:
        table: float64 [n, n] distances.
        threshold: in [0, 1].

    Returns:
        n numbers; equal ones are one cluster.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(table) < 2:
        return [1] * len(table)
    found: list[int] = fcluster(linkage(squareform(table), "complete"), threshold, "distance").tolist()
    return found
