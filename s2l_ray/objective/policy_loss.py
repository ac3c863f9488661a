"""Policy losses per token. All share their arguments:

    logprobs: float32 [N], of the policy that is trained.
    old_logprobs: float32 [N], of the same tokens under the learner's weights before the step, whoever sampled them.
    advantages: float32 [N].

r is exp(logprobs - old_logprobs).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from s2l_ray.objective.per_sequence import sequence_sums, spread


class PolicyLoss(NamedTuple):
    """All float32 or bool [N]; `ratio` and `clipped` carry no gradient."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor
    """Where the clip bound holds: the token has no gradient (ppo, gspo) or a bounded one (cispo)."""


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> PolicyLoss:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A).

    PPO's surrogate (arXiv 1707.06347), and GRPO's; clip_high > clip_low is DAPO's clip-higher (arXiv 2503.14476).
    """
    return _clipped(torch.exp(logprobs - old_logprobs), advantages, clip_low, clip_high)


def gspo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, lengths: Tensor, *, clip_low: float, clip_high: float
) -> PolicyLoss:
    """The same with one ratio for a whole response: the geometric mean of its tokens' (GSPO, arXiv 2507.18071).

    All tokens of a response have the same loss, so the mean over them is the loss of the response. The paper averages
    over sequences (aggregation: sequence) and clips at 3e-4 and 4e-4.

    Args:
        lengths: int64 [S], response tokens of each sequence of the row.
    """
    mean_log_ratio = sequence_sums(logprobs - old_logprobs, lengths) / lengths
    return _clipped(spread(torch.exp(mean_log_ratio), lengths), advantages, clip_low, clip_high)


def cispo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> PolicyLoss:
    """-stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) A logprobs (CISPO of MiniMax-M1, arXiv 2506.13585).

    The clip bounds the weight of a token's gradient and never drops it. clip_low = 1 is no lower bound, as published.
    """
    ratio = torch.exp(logprobs - old_logprobs).detach()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    return PolicyLoss(-bounded * advantages * logprobs, ratio, bounded != ratio)


def sapo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, positive: float, negative: float
) -> PolicyLoss:
    """-(4 / t) sigmoid(t (r - 1)) A: a soft gate instead of a clip (SAPO, arXiv 2511.20347).

    The gradient's weight falls smoothly on both sides of r = 1, where it is that of r A.

    Args:
        positive, negative: temperature t for advantages > 0, and for the others.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    temperature = torch.where(advantages > 0, torch.full_like(advantages, positive), negative)
    gate = 4 / temperature * torch.sigmoid(temperature * (ratio - 1))
    return PolicyLoss(-gate * advantages, ratio.detach(), torch.zeros_like(ratio, dtype=torch.bool))


def _clipped(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> PolicyLoss:
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    free, held = ratio * advantages, bounded * advantages
    return PolicyLoss(-torch.minimum(free, held), ratio.detach(), (held < free).detach())
