"""Seeds of random number generators from a run's seed, which may be any integer."""

from __future__ import annotations

import hashlib

import numpy as np


def word(seed: int) -> int:
    """The seed itself where it is in [0, 2**64), as torch and numpy take it; else a digest of it that is."""
    if 0 <= seed < 2**64:
        return seed
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "big")


def generator(seed: int, *stream: int) -> np.random.Generator:
    """A generator of its own for each stream (a step, an epoch, what is drawn) of a seed."""
    return np.random.default_rng((seed if seed >= 0 else word(seed), *stream))
