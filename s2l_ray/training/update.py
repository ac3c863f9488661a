"""From rollout groups to the token loss of a mini-batch, and the sums that its metrics are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from s2l_ray.errors import GroupError
from s2l_ray.objective import clipped_policy_loss, group_advantages, k3, token_weights
from s2l_ray.rollout import RolloutGroup
from s2l_ray.training.packing import MicroBatch, TrainSequence

if TYPE_CHECKING:
    from s2l_ray.config import ObjectiveConfig


@dataclass(frozen=True)
class Share:
    """One rank's part of one optimizer step."""

    sequences: list[TrainSequence]
    """Only what has to be forwarded."""
    zero_variance_groups: int
    skipped_rollouts: int
    """Rollouts that contribute nothing to the loss, and so are not forwarded."""
    explorer_mass: float
    """Sum over the explorer's response tokens of |advantage|."""
    mass: float
    """The same over all response tokens."""


def prepare_share(
    groups: list[RolloutGroup], objective: ObjectiveConfig, *, total_tokens: int, total_sequences: int
) -> Share:
    """Advantages and loss weights of whole groups.

    Args:
        total_tokens, total_sequences: response tokens and rollouts of the mini-batch over all ranks.

    Raises:
        GroupError: a group has no prompt tokens, or a rollout was not verified.
    """
    sequences: list[TrainSequence] = []
    zero_variance = skipped = 0
    mass = explorer_mass = 0.0
    for group in groups:
        if len(group.prompt_token_ids) == 0:
            raise GroupError(f"prompt {group.prompt_id} has no tokens; a response needs at least one token before it")
        advantages = group_advantages(
            group.rewards,
            group.from_explorer,
            normalise_std=objective.normalise_std,
            explorer_negatives=objective.explorer_negatives,
        )
        zero_variance += advantages.zero_variance
        for rollout, advantage in zip(group.rollouts, advantages.values, strict=True):
            length = len(rollout.token_ids)
            explorer = rollout.source == "explorer"
            mass += abs(advantage) * length
            explorer_mass += abs(advantage) * length * explorer
            if length == 0 or (advantage == 0 and objective.kl == 0):
                skipped += 1
                continue
            weight = token_weights(
                length, objective.aggregation, total_tokens=total_tokens, total_sequences=total_sequences
            )
            ids = np.concatenate([group.prompt_token_ids, rollout.token_ids]).astype(np.int64)
            sequences.append(TrainSequence(ids, length, rollout.logprobs, explorer, float(advantage), weight))
    return Share(sequences, zero_variance, skipped, explorer_mass, mass)


def micro_batch_loss(
    batch: MicroBatch, logprobs: Tensor, reference: Tensor | None, objective: ObjectiveConfig, sums: MetricSums
) -> Tensor:
    """This micro-batch's part of the mini-batch loss (a scalar: parts of all micro-batches and ranks add up to it)."""
    old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    policy = clipped_policy_loss(
        logprobs, old, batch.advantages, clip_low=objective.clip_low, clip_high=objective.clip_high
    )
    per_token = policy.loss
    kl = None
    if reference is not None:
        kl = k3(logprobs, reference)
        per_token = per_token + objective.kl * kl
    sums.add_tokens(batch, old, policy.ratio, policy.clipped, None if kl is None else kl.detach())
    return (per_token * batch.weights).sum()


class MetricSums:
    """Sums over tokens and rollouts that only become means when all ranks have added theirs."""

    NAMES = (
        "tokens",
        "ratio",
        "clipped",
        "kl",
        "explorer_tokens",
        "explorer_logprob",
        "learner_logprob",
        "learner_gap",
        "zero_variance_groups",
        "skipped_rollouts",
        "explorer_mass",
        "mass",
    )

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)
        self._largest_gap = torch.zeros((), dtype=torch.float64, device=device)

    def add_share(self, share: Share) -> None:
        ours = [0.0] * 8 + [share.zero_variance_groups, share.skipped_rollouts, share.explorer_mass, share.mass]
        self._sums += torch.tensor(ours, dtype=torch.float64, device=self._sums.device)

    def add_tokens(self, batch: MicroBatch, old: Tensor, ratio: Tensor, clipped: Tensor, kl: Tensor | None) -> None:
        """`old` are the learner's log-probs under the weights that the learner's rollouts were sampled with."""
        explorer, learner = batch.real & batch.from_explorer, batch.real & ~batch.from_explorer
        gap = (batch.engine_logprobs - old).abs() * learner
        parts = [
            batch.real.sum(),
            (ratio * batch.real).sum(),
            (clipped & batch.real).sum(),
            batch.real.sum() * 0 if kl is None else (kl * batch.real).sum(),
            explorer.sum(),
            (old * explorer).sum(),
            (old * learner).sum(),
            gap.sum(),
        ]
        self._sums[: len(parts)] += torch.stack([p.double() for p in parts])
        self._largest_gap = torch.maximum(self._largest_gap, gap.max().double())

    def metrics(self, all_reduce_sum, all_reduce_max, *, with_kl: bool) -> dict[str, float]:
        """Means over all ranks' tokens. A mean over nothing is left out."""
        total = dict(zip(self.NAMES, all_reduce_sum(self._sums.cpu()).tolist(), strict=True))
        largest_gap = all_reduce_max(self._largest_gap.cpu()).item()
        tokens, explorer = total["tokens"], total["explorer_tokens"]
        learner = tokens - explorer
        result = {
            "zero_variance_groups": total["zero_variance_groups"],
            "skipped_rollouts": total["skipped_rollouts"],
            "trained_tokens": tokens,
        }
        if tokens:
            result |= {"ratio_mean": total["ratio"] / tokens, "clip_fraction": total["clipped"] / tokens}
            if with_kl:
                result["kl"] = total["kl"] / tokens
        if explorer:
            result["logprob/explorer"] = total["explorer_logprob"] / explorer
        if learner:
            result["logprob/learner"] = total["learner_logprob"] / learner
            result["logprob_gap/learner"] = total["learner_gap"] / learner
            result["logprob_gap/learner_max"] = largest_gap
        if total["mass"]:
            result["advantage_mass/explorer"] = total["explorer_mass"] / total["mass"]
        return result
