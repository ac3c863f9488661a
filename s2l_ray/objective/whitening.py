"""REINFORCE++'s normalisation (arXiv 2501.03262): mean 0 and variance 1 over all response tokens of the mini-batch.

Every token of a response has its rollout's value, so a rollout counts as often as it has tokens. Same as verl's
`masked_whiten` over its response mask, with the sample variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

VARIANCE_EPS = 1e-8
"""Added to the variance, as verl's `masked_whiten` does."""
ROUNDING = 1e-12
"""A value this close to the mean is the mean: equal values have an advantage of exactly 0 though means are rounded."""


@dataclass(frozen=True)
class BatchMoments:
    """Over all tokens of a mini-batch, on all ranks."""

    mean: float
    variance: float


def batch_moments(
    values: np.ndarray, lengths: np.ndarray, all_reduce_sum: Callable[[np.ndarray], np.ndarray]
) -> BatchMoments:
    """Mean and sample variance, each rollout weighted by its length.

    Args:
        values: float64 [rollouts on this rank], possibly none.
        lengths: int [same], response tokens.
        all_reduce_sum: adds a float64 array over all ranks. Called twice: variance is about the mean of all ranks.
    """
    tokens, total = all_reduce_sum(np.array([lengths.sum(), (values * lengths).sum()], dtype=np.float64))
    mean = total / max(tokens, 1.0)
    (squares,) = all_reduce_sum(np.array([((values - mean) ** 2 * lengths).sum()], dtype=np.float64))
    return BatchMoments(float(mean), float(squares / max(tokens - 1, 1.0)))


def whiten(values: np.ndarray, batch: BatchMoments) -> np.ndarray:
    """(values - mean) / sqrt(variance + eps)."""
    distance = values - batch.mean
    distance = np.where(np.abs(distance) < ROUNDING, 0.0, distance)
    return distance / np.sqrt(batch.variance + VARIANCE_EPS)
