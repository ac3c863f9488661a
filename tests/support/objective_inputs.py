"""Small inputs of the objective's functions, with what a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from s2l_ray.config import ObjectiveConfig
from s2l_ray.objective import BatchMoments, GroupAdvantages, GroupRewards, LossTokens, estimated, group_advantages


def rewards_of(rewards: Sequence[float], from_explorer: Sequence[bool] | None = None) -> GroupRewards:
    """A group of responses of one token each; the learner's, unless said otherwise."""
    sources = np.zeros(len(rewards), bool) if from_explorer is None else np.asarray(from_explorer)
    return GroupRewards(np.asarray(rewards, np.float64), sources, np.ones(len(rewards), np.int64))


def estimate_of(rewards: Sequence[float], **objective: Any) -> np.ndarray:
    """What the estimator that `objective` names returns for a group."""
    return estimated(rewards_of(rewards), ObjectiveConfig(**objective))


def advantages_of(
    rewards: Sequence[float], from_explorer: Sequence[bool], *, batch: BatchMoments | None = None, **objective: Any
) -> GroupAdvantages:
    return group_advantages(rewards_of(rewards, from_explorer), ObjectiveConfig(**objective), batch)


def loss_tokens(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, lengths: torch.Tensor | None = None
) -> LossTokens:
    """Tokens of the learner; one response, unless said otherwise."""
    lengths = torch.tensor([len(logprobs)]) if lengths is None else lengths
    return LossTokens(logprobs, old, advantages, lengths, torch.zeros(len(logprobs), dtype=torch.bool), old)
