"""Policy losses of a user's, as `objective.loss: tests.support.losses:is_broken` names them."""

from __future__ import annotations

import itertools

import torch

from s2l_ray.objective import LossTokens


def is_broken(tokens: object, objective: object) -> torch.Tensor:
    """A loss with a bug."""
    raise ZeroDivisionError("in the loss")


BATCHES = itertools.count(1)
WHOLE_BATCHES = 4


def breaks(tokens: LossTokens, objective: object) -> torch.Tensor:
    """A loss whose value is always finite. From its fifth mini-batch in a process on its gradient is NaN."""
    loss = -tokens.advantages * torch.exp(tokens.logprobs - tokens.old_logprobs)
    return loss if next(BATCHES) <= WHOLE_BATCHES else loss + (tokens.logprobs * 0).sqrt()
