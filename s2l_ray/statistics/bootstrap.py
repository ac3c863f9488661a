"""Percentile bootstrap over problems: of means, and of paired differences.

Problems are resampled with replacement, all columns (every k of pass@k) and both models of a pair with the same draws.
The interval says what another draw of problems from the same source would give; it does not cover another seed of a
training. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2l_ray.seeds import generator

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A number and its interval, in the unit of what was measured."""

    value: float
    low: float
    high: float


def resampled_means(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means over resampled problems, float64 [resamples, columns].

    A resample is a multinomial count of the distinct rows of `values`, which has the same distribution as drawing
    problems one by one, and is cheap where few distinct rows exist (pass@k has at most n + 1).

    Args:
        values: [problems, columns].
        seed: of the draws; the same seed and number of problems give the same draws only for the same distinct rows.
        resamples: how many.

    Raises:
        ValueError: there are no problems, or `values` is not a matrix.
    """
    if values.ndim != 2 or not len(values):
        raise ValueError(f"a bootstrap needs a matrix [problems, columns] with a problem, got shape {values.shape}")
    rows, problems = np.unique(values, axis=0, return_counts=True)
    return resampled_means_of(rows, problems, seed, resamples)


def resampled_means_of(rows: np.ndarray, problems: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means over resampled problems, float64 [resamples, columns], as `resampled_means`, of problems that are counted.

    Args:
        rows: values that problems have, [rows, columns].
        problems: how many have each of them, [rows]; their order decides which problems a draw is of.
        seed: of the draws.
        resamples: how many.
    """
    total = problems.sum()
    weights = generator(seed).multinomial(total, problems / total, size=resamples)
    return np.asarray(weights @ rows / total)


def interval(resampled: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper percentiles over the first axis.

    Raises:
        ValueError: the confidence is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def mean_interval(values: np.ndarray, confidence: float, seed: int, resamples: int = RESAMPLES) -> list[Estimate]:
    """Mean over problems of each column of `values` [problems, columns], with its interval.

    Raises:
        ValueError: there are no problems, or the confidence is not in (0, 1).
    """
    low, high = interval(resampled_means(values, seed, resamples), confidence)
    return [Estimate(float(m), float(a), float(b)) for m, a, b in zip(values.mean(axis=0), low, high, strict=True)]


def paired_difference(
    first: np.ndarray, second: np.ndarray, confidence: float, seed: int, resamples: int = RESAMPLES
) -> list[Estimate]:
    """Mean of second - first over the same problems, by column, with its interval; arguments [problems, columns].

    Both see the same resampled problems, so that how hard the problems are cancels.

    Raises:
        ValueError: the two differ in shape, there are no problems, or the confidence is not in (0, 1).
    """
    if first.shape != second.shape:
        raise ValueError(f"a paired difference needs the same problems twice, got {first.shape} and {second.shape}")
    return mean_interval(second - first, confidence, seed, resamples)
