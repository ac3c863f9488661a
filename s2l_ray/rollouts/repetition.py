"""Whether a response has fallen into a loop, as models that degenerate do (arXiv 1904.09751)."""

from __future__ import annotations

import numpy as np

LENGTH = 4
"""Tokens of the runs that are counted."""
SHORTEST, LONGEST = 64, 512
"""Tokens that a response has at least to be judged, and how many of its last ones are looked at."""
DISTINCT = 0.2
"""Share of different runs below which a response repeats itself. In prose and code it is above one half, in an
enumeration of cases above a third."""


def is_repetitive(token_ids: np.ndarray) -> bool:
    """Whether less than a fifth of the runs of four tokens at the end of a response are different.

    Args:
        token_ids: int32 [response tokens]. A response of fewer than 64 tokens never is.
    """
    end = token_ids[-LONGEST:]
    if len(end) < SHORTEST:
        return False
    runs = np.lib.stride_tricks.sliding_window_view(end, LENGTH)
    different = {run.tobytes() for run in runs}
    return len(different) < DISTINCT * len(runs)
