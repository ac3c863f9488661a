"""Policy losses of a user's, as `objective.loss: tests.support.losses:is_broken` names them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import torch

from s2l_ray.objective import LossTokens


def is_broken(tokens: object, objective: object) -> torch.Tensor:
    """A loss with a bug."""
    raise ZeroDivisionError("in the loss")


def is_broken_for_now(tokens: LossTokens, objective: object) -> torch.Tensor:
    """A loss that raises while there is the file which the environment names."""
    if Path(os.environ["S2L_TEST_BROKEN"]).exists():
        raise ZeroDivisionError("in the loss")
    return -tokens.advantages * torch.exp(tokens.logprobs - tokens.old_logprobs)


BATCHES = itertools.count(1)
WHOLE_BATCHES = 4


def breaks(tokens: LossTokens, objective: object) -> torch.Tensor:
    """A loss whose value is always finite. From its fifth mini-batch in a process on its gradient is NaN."""
    loss = -tokens.advantages * torch.exp(tokens.logprobs - tokens.old_logprobs)
    return loss if next(BATCHES) <= WHOLE_BATCHES else loss + (tokens.logprobs * 0).sqrt()
