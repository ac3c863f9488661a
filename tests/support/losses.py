"""Policy losses of a user's, as `objective.loss: tests.support.losses:is_broken` names them."""

from __future__ import annotations

import torch


def is_broken(tokens: object, objective: object) -> torch.Tensor:
    """A loss with a bug."""
    raise ZeroDivisionError("in the loss")
