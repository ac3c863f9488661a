"""Estimates of KL(policy || reference) from the policy's samples (J. Schulman, "Approximating KL divergence").

All take float32 [N] log-probs of the sampled tokens, the reference's without gradient, and return float32 [N]. d is
logprobs - reference. What is differentiated is the estimate, so their gradients differ in kind:

        value                gradient by logprobs
    k1  d                    1: no pull to the reference, in expectation (its place is the reward)
    k2  d^2 / 2              d: in expectation the gradient of the KL where the samples are the policy's own
    k3  exp(-d) - 1 + d      1 - exp(-d): in expectation the gradient of KL(reference || policy)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from s2l_ray.kinds import KLEstimator

if TYPE_CHECKING:
    from torch import Tensor


def k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """d: unbiased, of either sign, of high variance."""
    return logprobs - reference


def k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """d^2 / 2: never negative; biased."""
    return (logprobs - reference).square() / 2


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(-d) - 1 + d: unbiased, never negative, and 0 exactly where the two agree."""
    difference = reference - logprobs
    return difference.expm1() - difference


KL_ESTIMATORS: dict[KLEstimator, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
