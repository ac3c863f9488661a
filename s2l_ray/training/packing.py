"""Rollouts to packed micro-batches: sequences laid end to end in one row, without padding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2l_ray.training.attention import PackedLayout


@dataclass(frozen=True)
class TrainSequence:
    """One rollout, as an input of the loss."""

    token_ids: np.ndarray
    """int64 [prompt + response tokens]."""
    response_tokens: int
    engine_logprobs: np.ndarray
    """float32 [response tokens], reported by the engine that sampled them."""
    from_explorer: bool
    advantage: float
    weight: float
    """The weight of each response token in the loss (objective/weighting.py)."""

    @property
    def tokens(self) -> int:
        """Prompt and response tokens."""
        return len(self.token_ids)


@dataclass(frozen=True)
class RankShare:
    """The part of one optimizer step that one rank computes."""

    sequences: list[TrainSequence]
    """The rollouts that have to be forwarded."""
    zero_variance_groups: int
    skipped_rollouts: int
    """Rollouts that contribute nothing to the loss, and so are not forwarded."""
    explorer_mass: float
    """Sum over the explorer's response tokens of |advantage|."""
    mass: float
    """The same over all response tokens."""


@dataclass
class MicroBatch:
    """One packed row of T tokens with N response tokens that are trained on."""

    input_ids: Tensor
    """int64 [1, T]."""
    position_ids: Tensor
    """int64 [1, T], from 0 in every sequence."""
    layout: PackedLayout
    predictors: Tensor
    """int64 [N]: index in the row of the token before each response token, whose hidden state predicts it."""
    targets: Tensor
    """int64 [N]: the response tokens."""
    advantages: Tensor
    """float32 [N]."""
    weights: Tensor
    """float32 [N]."""
    lengths: Tensor
    """int64 [S]: response tokens of each sequence, N in all."""
    from_explorer: Tensor
    """bool [N]."""
    engine_logprobs: Tensor
    """float32 [N]."""
    real: Tensor = field(repr=False)
    """bool [N]: False in a micro-batch that only keeps this rank in step with the others."""
    old_from_engine: bool = False
    """Whether the ratio divides by `engine_logprobs` (objective.old_logprobs)."""
    old_logprobs: Tensor | None = None
    """float32 [N]: the learner's, before the step; None: the same as the current ones, or `old_from_engine`."""
    reference_logprobs: Tensor | None = None
    """float32 [N], under the reference; None without KL in the loss."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on `device`."""
        moved: dict[str, Any] = {k: v.to(device) if hasattr(v, "to") else v for k, v in vars(self).items()}
        return MicroBatch(**moved)


def micro_batches(sequences: list[TrainSequence], budget: int) -> list[list[TrainSequence]]:
    """Split into micro-batches of at most `budget` tokens; a longer sequence is alone.

    Longest first, so that neighbours have like lengths and little padding where attention is computed in batches.
    """
    rows: list[list[TrainSequence]] = []
    room = 0
    for sequence in sorted(sequences, key=lambda s: -s.tokens):
        if not rows or sequence.tokens > room:
            rows.append([])
            room = budget
        rows[-1].append(sequence)
        room -= sequence.tokens
    return rows


def pack(sequences: list[TrainSequence]) -> MicroBatch:
    """Lay sequences end to end. Each needs a prompt token before its first response token."""
    lengths = [s.tokens for s in sequences]
    responses = [s.response_tokens for s in sequences]
    ends = np.cumsum(lengths)
    row = np.concatenate([s.token_ids for s in sequences]).astype(np.int64)
    response_at = np.concatenate([np.arange(e - n, e) for e, n in zip(ends, responses, strict=True)])

    def per_token(values: list[float] | list[bool], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.repeat(values, responses)).to(dtype)

    return MicroBatch(
        input_ids=torch.from_numpy(row)[None],
        position_ids=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))[None],
        layout=PackedLayout.of(lengths),
        predictors=torch.from_numpy(response_at - 1),
        targets=torch.from_numpy(row[response_at]),
        advantages=per_token([s.advantage for s in sequences], torch.float32),
        weights=per_token([s.weight for s in sequences], torch.float32),
        lengths=torch.tensor(responses),
        from_explorer=per_token([s.from_explorer for s in sequences], torch.bool),
        engine_logprobs=torch.from_numpy(np.concatenate([s.engine_logprobs for s in sequences]).astype(np.float32)),
        real=torch.ones(sum(responses), dtype=torch.bool),
    )


def idle_micro_batch() -> MicroBatch:
    """Two tokens of weight 0: the rank takes part in the collectives of a forward and backward and adds nothing."""
    nothing = TrainSequence(np.zeros(2, np.int64), 1, np.zeros(1, np.float32), False, 0.0, 0.0)
    batch = pack([nothing])
    batch.real = torch.zeros(1, dtype=torch.bool)
    return batch
