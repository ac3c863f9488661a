"""How likely a paired t test is to find an effect, and how many pairs it needs; from the noncentral t distribution.

Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, chapter 2.
"""

from __future__ import annotations

from math import sqrt

from scipy import stats

MOST_PAIRS = 1_000_000


def power_of_paired_test(effect: float, deviation: float, pairs: int, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t test at level alpha rejects "no difference".

    Args:
        effect: true mean of the differences.
        deviation: standard deviation of the differences, in the unit of `effect`.
        pairs: problems, or seeds.
        alpha: level of the test.

    Raises:
        ValueError: fewer than 2 pairs, a deviation that is not above 0, or alpha outside (0, 1).
    """
    if pairs < 2 or not deviation > 0 or not 0 < alpha < 1:
        raise ValueError("power needs at least 2 pairs, a deviation above 0 and alpha between 0 and 1")
    centre, freedom = effect / deviation * sqrt(pairs), pairs - 1
    limit = stats.t.ppf(1 - alpha / 2, freedom)
    return float(stats.nct.sf(limit, freedom, centre) + stats.nct.cdf(-limit, freedom, centre))


def pairs_needed(effect: float, deviation: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """The fewest pairs with which `power_of_paired_test` is at least `power`.

    Raises:
        ValueError: as there; an effect of 0, a power outside (0, 1), or more than a million pairs.
    """
    if effect == 0 or not 0 < power < 1:
        raise ValueError("pairs needed: the effect must not be 0, and the power must be between 0 and 1")
    low, high = 1, 2
    while power_of_paired_test(effect, deviation, high, alpha) < power:
        low, high = high, high * 2
        if high > MOST_PAIRS:
            raise ValueError(f"more than {MOST_PAIRS} pairs would be needed")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of_paired_test(effect, deviation, middle, alpha) >= power else (middle, high)
    return high
