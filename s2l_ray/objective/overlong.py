"""DAPO's soft overlong punishment: long responses lose reward before they are cut off (arXiv 2503.14476, eq. 13)."""

from __future__ import annotations

import numpy as np


def overlong_punishment(lengths: np.ndarray, *, max_tokens: int, buffer_tokens: int, largest: float) -> np.ndarray:
    """What is taken off the reward, >= 0: rises linearly over the last `buffer_tokens` before `max_tokens`.

    The paper's R_length is this, negated, with largest = 1; as verl's overlong buffer with its penalty factor.

    Args:
        lengths: int [N], response tokens.

    Returns:
        float64 [N]: 0 up to max_tokens - buffer_tokens, `largest` at max_tokens and beyond.
    """
    exceeding = lengths - (max_tokens - buffer_tokens)
    return largest * np.clip(exceeding / buffer_tokens, 0.0, 1.0)
