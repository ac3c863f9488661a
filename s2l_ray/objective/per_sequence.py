"""Sums over each response of a packed row, given back to every one of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """[S] sums of consecutive runs.

    Args:
        values: float [N], N = lengths.sum(); the gradient flows through.
        lengths: int64 [S].
    """
    return values.new_zeros(len(lengths)).index_add(0, _owners(lengths), values)


def spread(per_sequence: Tensor, lengths: Tensor) -> Tensor:
    """[N] from [S]: each token has its sequence's value."""
    return per_sequence[_owners(lengths)]


def _owners(lengths: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
