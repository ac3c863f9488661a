"""Sums over each response of a packed row, given back to every one of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sequence_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Add up each run of consecutive values.

    Args:
        values: float [N], N = lengths.sum(); the gradient flows through.
        lengths: int64 [S].

    Returns:
        float [S].
    """
    return values.new_zeros(len(lengths)).index_add(0, _owners(lengths, len(values)), values)


def spread(per_sequence: Tensor, lengths: Tensor, tokens: int | None = None) -> Tensor:
    """Give each token its sequence's value: [S] to [N].

    Args:
        tokens: N. Where it is not given a GPU has to finish everything before it, to tell how large the result is.
    """
    return per_sequence[_owners(lengths, tokens)]


def _owners(lengths: Tensor, tokens: int | None) -> Tensor:
    """The number of the sequence that each token belongs to, int64 [N]."""
    import torch  # not at the top: the configuration imports this package

    numbers = torch.arange(len(lengths), device=lengths.device)
    return torch.repeat_interleave(numbers, lengths, output_size=tokens)
