"""Importance weights for tokens that another policy sampled: learner's old log-probs against the sampler's own.

`log_ratio` is old - behaviour, the behaviour log-probs being those that the engine sampled with. At token level the
ratio is each token's; at sequence level the product over the response, given to all of its tokens, as verl's rollout
correction has it. The exponent is held within +-20, also as there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from s2l_ray.kinds import CorrectionLevel, CorrectionMode
from s2l_ray.objective.per_sequence import sequence_sums, spread

LARGEST_EXPONENT = 20.0


class Correction(NamedTuple):
    weights: Tensor
    """float32 [N], without gradient; multiplies the policy loss, not the KL."""
    kept: Tensor
    """bool [N]: the ratio is within [1 / cap, cap]."""


def correction(
    log_ratio: Tensor, lengths: Tensor, *, level: CorrectionLevel, mode: CorrectionMode, cap: float
) -> Correction:
    """truncate: min(ratio, cap) (truncated importance sampling). mask: the ratio within [1 / cap, cap], 0 outside.

    Args:
        log_ratio: float32 [N], without gradient.
        lengths: int64 [S], response tokens of each sequence of the row.
        cap: > 1.
    """
    if level == "none":
        return Correction(torch.ones_like(log_ratio), torch.ones_like(log_ratio, dtype=torch.bool))
    if level == "sequence":
        log_ratio = spread(sequence_sums(log_ratio, lengths), lengths)
    ratio = torch.exp(log_ratio.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT))
    kept = (ratio >= 1 / cap) & (ratio <= cap)
    return Correction(ratio.clamp(max=cap) if mode == "truncate" else ratio * kept, kept)
