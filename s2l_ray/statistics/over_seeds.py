"""Student's t over a few runs: intervals of means, and the paired test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def t_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """The confidence interval of the mean of independent values, by Student's t with one degree of freedom less.

    Args:
        values: such as the results of runs that differ in their seed.
        confidence: in (0, 1).

    Returns:
        (low, high); None of fewer than two values.
    """
    from scipy.stats import t

    if len(values) < 2:
        return None
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def paired_t_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of "the mean of the paired differences is zero", by Student's t.

    Returns:
        None of fewer than two differences. Of differences that are all equal 1 if they are zero, else 0.
    """
    from scipy.stats import t

    if len(differences) < 2:
        return None
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    statistic = mean / (deviation / math.sqrt(len(differences)))
    return float(2 * t.sf(abs(statistic), len(differences) - 1))
