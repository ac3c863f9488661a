"""PPO's clipped surrogate, per token (arXiv 1707.06347, with the separate upper bound of DAPO, arXiv 2503.14476)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """All float32 or bool [N]; `ratio` and `clipped` carry no gradient."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor
    """Where the clip bound holds, so that the token has no gradient."""


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> PolicyLoss:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = exp(logprobs - old_logprobs).

    Args:
        logprobs: float32 [N], of the policy that is trained.
        old_logprobs: float32 [N], of the same tokens under the learner's weights before the step, whoever sampled them.
        advantages: float32 [N].
    """
    ratio = torch.exp(logprobs - old_logprobs)
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    free, held = ratio * advantages, bounded * advantages
    return PolicyLoss(-torch.minimum(free, held), ratio.detach(), (held < free).detach())
