"""How many different solutions k samples hold, without bias.

Of n samples of a problem let c_i be how many gave solution i. k of them, drawn without replacement, hold on average

    D_k = sum over i of 1 - C(n - c_i, k) / C(n, k)

different solutions: the rarefaction curve of ecology (Hurlbert 1971), and an unbiased estimate of what k independent
samples hold. With one class, "right", it is pass@k. Samples without a solution count among the n, and add nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def expected_distinct(counts: Sequence[int], samples: int, k: Sequence[int]) -> Floats:
    """D_k for each k, in solutions.

    Args:
        counts: c_i of each solution, each in 1..samples; none may be left out.
        samples: n.
        k: each in 1..n.

    Returns:
        float64 [k].

    Raises:
        ValueError: a k or a count that does not fit n.
    """
    if any(not 1 <= each <= samples for each in (*k, *counts)) or sum(counts) > samples:
        raise ValueError(f"k {list(k)} and counts {list(counts)} do not fit {samples} samples")
    classes = Counter(counts)
    return np.array(
        [
            sum(times * (1 - comb(samples - c, each) / comb(samples, each)) for c, times in classes.items())
            for each in k
        ],
        dtype=np.float64,
    )


def distinct_of(solutions: Sequence[Hashable | None], k: Sequence[int]) -> Floats:
    """D_k of the solutions of one problem's n samples, None where a sample has none: float64 [k]."""
    counts = Counter(solution for solution in solutions if solution is not None)
    return expected_distinct(list(counts.values()), len(solutions), k)


def pair_differs(solutions: Sequence[Hashable | None]) -> float:
    """The chance that two of the samples that have a solution have different ones; NaN with fewer than two.

    1 - sum of c_i (c_i - 1) / (m (m - 1)) over the m samples with a solution: Simpson's index of diversity, unbiased.
    """
    counts = np.array(list(Counter(solution for solution in solutions if solution is not None).values()))
    having = counts.sum() if len(counts) else 0
    if having < 2:
        return float("nan")
    return float(1 - (counts * (counts - 1)).sum() / (having * (having - 1)))


def ks_up_to(samples: int) -> list[int]:
    """1, 2, 4, ... up to n, and n."""
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return sorted({*powers, samples})
