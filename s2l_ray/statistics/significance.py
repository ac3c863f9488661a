"""Tests of paired differences, and the correction for several of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s2l_ray.seeds import generator

EXACT_PAIRS = 16
"""Up to so many differences that are not zero, all 2^pairs signs are tried; above, signs are drawn."""
DRAWS = 20_000
_CHUNK = 2_000


def sign_flip_p_value(differences: Sequence[float] | np.ndarray, seed: int, draws: int = DRAWS) -> float:
    """Two-sided p-value of "the differences are symmetric about zero", by flipping their signs; in (0, 1].

    The statistic is the absolute sum. Differences of zero cannot change it and are left out. With few pairs every
    combination of signs counts once (exact: the smallest value is 2 / 2^pairs); with more, `draws` random ones and the
    observed one count, (hits + 1) / (draws + 1), which never rejects too often. Source: Phipson and Smyth 2010,
    "Permutation p-values should never be zero".

    Args:
        differences: one for each pair (problem, or seed).
        seed: of the drawn signs.
        draws: how many, where they are drawn.

    Raises:
        ValueError: there are no differences, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("a test of paired differences needs at least one, and all of them finite")
    values = values[values != 0]
    if not values.size:
        return 1.0
    # Sums that are equal on paper may differ in their last bits, by the order of their terms.
    bound = abs(values.sum()) * (1 - 1e-12) - 1e-12 * np.abs(values).sum()
    if values.size <= EXACT_PAIRS:
        bits = np.arange(2**values.size)[:, None] >> np.arange(values.size) & 1
        return float(np.mean(np.abs((2.0 * bits - 1.0) @ values) >= bound))
    rng, hits = generator(seed), 0
    for begin in range(0, draws, _CHUNK):
        bits = rng.integers(0, 2, size=(min(_CHUNK, draws - begin), values.size), dtype=np.int8)
        hits += int(np.count_nonzero(np.abs((2.0 * bits - 1.0) @ values) >= bound))
    return (hits + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order of the given ones.

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection at most alpha, however
    the tests depend on each other. Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Raises:
        ValueError: a value is outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("p-values must be between 0 and 1")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
