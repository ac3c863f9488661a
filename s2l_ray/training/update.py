"""From rollout groups to the token loss of a mini-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from s2l_ray.objective import (
    BATCH_ESTIMATORS,
    KL_ESTIMATORS,
    BatchMoments,
    Correction,
    PolicyLoss,
    batch_baseline,
    batch_moments,
    cispo_policy_loss,
    clipped_policy_loss,
    correction,
    group_advantages,
    gspo_policy_loss,
    overlong_punishment,
    sapo_policy_loss,
    token_weights,
)
from s2l_ray.rollouts.records import Rollout, RolloutGroup
from s2l_ray.training.logprobs import TokenScores
from s2l_ray.training.metrics import MetricSums
from s2l_ray.training.packing import MicroBatch, RankShare, TrainSequence

if TYPE_CHECKING:
    from s2l_ray.config import ObjectiveConfig


def prepare_share(
    groups: list[RolloutGroup],
    objective: ObjectiveConfig,
    *,
    total_tokens: int,
    total_sequences: int,
    moments: BatchMoments | None = None,
) -> RankShare:
    """Advantages and loss weights of whole groups.

    Args:
        total_tokens, total_sequences: response tokens and rollouts of the mini-batch over all ranks.
        moments: of the mini-batch, for advantages that are normalised over it (`share_moments`).

    Raises:
        GroupError: a rollout was not verified, or its reward does not suit the advantage.
    """
    sequences: list[TrainSequence] = []
    zero_variance = skipped = 0
    mass = explorer_mass = 0.0
    regularised = objective.entropy > 0 or (objective.kl > 0 and objective.kl_in == "loss")
    for group in groups:
        advantages = group_advantages(
            group.rewards,
            group.from_explorer,
            normalise_std=objective.normalise_std,
            explorer_negatives=objective.explorer_negatives,
            recentre=objective.recentre,
            estimator=objective.advantage,
            pass_k=objective.pass_k,
            batch=moments,
        )
        zero_variance += advantages.zero_variance
        for rollout, advantage in zip(group.rollouts, advantages.values, strict=True):
            length = len(rollout.token_ids)
            if objective.overlong == "filter" and rollout.finish_reason == "length":
                skipped += 1
                continue
            mass += abs(advantage) * length
            explorer_mass += abs(advantage) * length * (rollout.source == "explorer")
            if length == 0 or (advantage == 0 and not regularised):
                skipped += 1
                continue
            weight = token_weights(
                length,
                objective.aggregation,
                total_tokens=total_tokens,
                total_sequences=total_sequences,
                constant_tokens=objective.aggregation_tokens,
            )
            sequences.append(train_sequence(group, rollout, float(advantage), weight))
    return RankShare(sequences, zero_variance, skipped, explorer_mass, mass)


def train_sequence(group: RolloutGroup, rollout: Rollout, advantage: float, weight: float) -> TrainSequence:
    """A rollout with its prompt, of at least one token, in front."""
    ids = np.concatenate([group.prompt_token_ids, rollout.token_ids]).astype(np.int64)
    explorer = rollout.source == "explorer"
    return TrainSequence(ids, len(rollout.token_ids), rollout.logprobs, explorer, advantage, weight)


def all_sequences(mini_batches: list[list[RolloutGroup]]) -> list[TrainSequence]:
    """Every rollout with at least one token, without advantage or weight, in the order of `penalised_groups`."""
    groups = [group for mini in mini_batches for group in mini]
    return [train_sequence(g, r, 0.0, 0.0) for g in groups for r in g.rollouts if len(r.token_ids)]


def penalised_groups(mini_batches: list[list[RolloutGroup]], penalties: list[float]) -> list[list[RolloutGroup]]:
    """The same groups with each rollout's penalty taken off its reward; an empty response has none."""
    remaining = iter(penalties)

    def penalised(rollout: Rollout) -> Rollout:
        penalty = next(remaining) if len(rollout.token_ids) else 0.0
        return replace(rollout, verdict=replace(rollout.verdict, reward=rollout.reward - penalty))

    return [[replace(g, rollouts=[penalised(r) for r in g.rollouts]) for g in mini] for mini in mini_batches]


def punished_groups(
    mini_batches: list[list[RolloutGroup]], objective: ObjectiveConfig, max_tokens: int
) -> list[list[RolloutGroup]]:
    """The same groups with the soft overlong punishment taken off each rollout's reward."""
    lengths = np.array([sequence.response_tokens for sequence in all_sequences(mini_batches)])
    punishments = overlong_punishment(
        lengths,
        max_tokens=max_tokens,
        buffer_tokens=objective.overlong_buffer_tokens,
        largest=1.0 if objective.overlong_penalty is None else objective.overlong_penalty,
    )
    return penalised_groups(mini_batches, punishments.tolist())


def share_moments(
    groups: list[RolloutGroup], objective: ObjectiveConfig, all_reduce_sum: Callable[[Tensor], Tensor]
) -> BatchMoments | None:
    """Of the mini-batch over all ranks, where the advantage needs them (a collective then), else None."""
    if objective.advantage not in BATCH_ESTIMATORS:
        return None
    values = [batch_baseline(group.rewards, objective.advantage) for group in groups]
    lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
    return batch_moments(
        np.concatenate([np.zeros(0), *values]),
        np.array(lengths, dtype=np.int64),
        lambda sums: all_reduce_sum(torch.from_numpy(sums)).numpy(),
    )


def micro_batch_loss(
    batch: MicroBatch, scores: TokenScores, reference: Tensor | None, objective: ObjectiveConfig, sums: MetricSums
) -> Tensor:
    """This micro-batch's part of the mini-batch loss (a scalar: parts of all micro-batches and ranks add up to it).

    Args:
        scores: of the policy that is trained.
        reference: float32 [N], log-probs under the reference; None without KL in the loss.
    """
    logprobs = scores.logprobs
    old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    policy = policy_loss(batch, logprobs, old, objective)
    per_token = policy.loss
    corrected = corrections(batch, old, objective)
    if corrected is not None:
        per_token = per_token * corrected.weights
    if reference is not None:
        kl = KL_ESTIMATORS[objective.kl_estimator](logprobs, reference)
        per_token = per_token + objective.kl * kl
        sums.add_kl(batch, kl.detach())
    if objective.entropy:
        per_token = per_token - objective.entropy * scores.entropy
    sums.add_tokens(batch, old, policy, corrected, scores.entropy.detach())
    return (per_token * batch.weights).sum()


def policy_loss(batch: MicroBatch, logprobs: Tensor, old: Tensor, objective: ObjectiveConfig) -> PolicyLoss:
    """The loss that the configuration names."""
    clip = {"clip_low": objective.clip_low, "clip_high": objective.clip_high}
    if objective.loss == "gspo":
        return gspo_policy_loss(logprobs, old, batch.advantages, batch.lengths, **clip)
    if objective.loss == "cispo":
        return cispo_policy_loss(logprobs, old, batch.advantages, **clip)
    if objective.loss == "sapo":
        temperatures = {"positive": objective.sapo_positive, "negative": objective.sapo_negative}
        return sapo_policy_loss(logprobs, old, batch.advantages, **temperatures)
    return clipped_policy_loss(logprobs, old, batch.advantages, **clip)


def corrections(batch: MicroBatch, old: Tensor, objective: ObjectiveConfig) -> Correction | None:
    """Each token's weight by its source's level; None if neither source is corrected."""
    goal = objective.correction
    if goal.explorer == goal.learner == "none":
        return None
    explorer, learner = (
        correction(old - batch.engine_logprobs, batch.lengths, level=level, mode=goal.mode, cap=goal.cap)
        for level in (goal.explorer, goal.learner)
    )
    return Correction(
        torch.where(batch.from_explorer, explorer.weights, learner.weights),
        torch.where(batch.from_explorer, explorer.kept, learner.kept),
    )
