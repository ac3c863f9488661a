"""The k3 estimate of KL(policy || reference) from the policy's samples (J. Schulman, "Approximating KL divergence")."""

from __future__ import annotations

import torch
from torch import Tensor


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = reference - logprobs: never negative, and 0 exactly where the two agree.

    Args:
        logprobs: float32 [N], of the policy; the gradient flows here and is 1 - exp(d).
        reference: float32 [N], without gradient.

    Returns:
        float32 [N].
    """
    difference = reference - logprobs
    return torch.expm1(difference) - difference
