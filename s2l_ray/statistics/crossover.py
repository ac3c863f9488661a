"""k*: the k at which the model with the lower pass@1 overtakes the other one in pass@k (the paper's figure 2).

The curves are known at every integer k up to n; between two of them, both are taken as straight. The interval is a
percentile bootstrap over problems. A resample in which the order does not change up to n has its crossover beyond n,
and one in which the challenger is already ahead at k = 1 has it at 1: the interval is that of a censored number, and an
end beyond n is None. Leaving such resamples out would make it look narrower than it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2l_ray.statistics.bootstrap import interval, resampled_means

RESAMPLES = 4_000


@dataclass(frozen=True)
class Crossover:
    """Where the challenger, which has the lower pass@1, overtakes the leader."""

    k: float | None
    """None: not up to n."""
    low: float | None
    """Lower end of the interval; None: beyond n."""
    high: float | None
    """Upper end of the interval; None: beyond n."""
    share: float
    """Resamples of the problems in which the challenger starts behind and overtakes, in [0, 1]."""


def crossover_k(difference: np.ndarray) -> float | None:
    """The first k at which challenger minus leader rises above zero, interpolated; None where it never does.

    Args:
        difference: pass@k of the challenger minus that of the leader for k = 1, 2, ..., n.

    Returns:
        A number in [1, n]; 1.0 where the challenger is ahead from the start.
    """
    value = float(_first_above_zero(difference[None, :])[0])
    return value if np.isfinite(value) else None


def crossover_of(leader: np.ndarray, challenger: np.ndarray, confidence: float, seed: int) -> Crossover:
    """k* of two models on the same problems, with its interval.

    Args:
        leader: pass@k of each problem for k = 1 to n of the model with the higher pass@1, [problems, n].
        challenger: likewise, of the other.
        confidence: level of the interval.
        seed: of the bootstrap.

    Raises:
        ValueError: the two differ in shape, there are no problems, or the confidence is not in (0, 1).
    """
    if leader.shape != challenger.shape:
        raise ValueError(f"a crossover needs the same problems twice, got {leader.shape} and {challenger.shape}")
    difference = challenger - leader
    resampled = resampled_means(difference, seed, RESAMPLES)
    found = _first_above_zero(resampled)
    # Percentiles between a finite number and infinity would be infinite or undefined: the nearest is taken instead.
    low, high = interval(np.where(np.isfinite(found), found, np.finfo(float).max), confidence)
    last = difference.shape[1]
    return Crossover(
        k=crossover_k(difference.mean(axis=0)),
        low=float(low) if low <= last else None,
        high=float(high) if high <= last else None,
        share=float(np.mean(np.isfinite(found) & (resampled[:, 0] < 0))),
    )


def _first_above_zero(curves: np.ndarray) -> np.ndarray:
    """For each row [rows, n] the interpolated k at which it first rises above zero; infinite where it does not."""
    above = curves > 0
    first = above.argmax(axis=1)
    rows = np.arange(len(curves))
    after = curves[rows, first]
    before = curves[rows, np.maximum(first - 1, 0)]
    with np.errstate(divide="ignore", invalid="ignore"):
        # `before` is at most 0: first is the index of k = first + 1, and before belongs to k = first.
        crossing = np.where(first > 0, first + before / (before - after), 1.0)
    return np.asarray(np.where(above.any(axis=1), crossing, np.inf))
