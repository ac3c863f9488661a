"""The steps from rollout groups to the loss of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from s2l_ray.errors import ConfigError, GroupError
from s2l_ray.kinds import Source
from s2l_ray.objective import (
    KL_ESTIMATORS,
    BatchMoments,
    Correction,
    GroupRewards,
    LossTokens,
    batch_moments,
    correction,
    estimated,
    group_advantages,
    is_over_batch,
    overlong_punishment,
    policy_loss,
    token_weights,
)
from s2l_ray.rollouts.records import Rollout, RolloutGroup
from s2l_ray.training.logprobs import TokenScores
from s2l_ray.training.metrics import MetricSums
from s2l_ray.training.packing import MicroBatch, RankShare, TrainSequence

if TYPE_CHECKING:
    from s2l_ray.config import ObjectiveConfig

STEP_ORDER: tuple[Source, ...] = ("explorer", "learner")
"""The optimizer steps of one mini-batch with `grouping: separate`."""


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
        moments: of the mini-batch, for advantages that are normalised over it (`mini_batch_moments`).

    Raises:
        GroupError: a rollout was not verified, or its reward does not suit the advantage.
    """
    sequences: list[TrainSequence] = []
    zero_variance = skipped = 0
    mass = explorer_mass = 0.0
    regularised = objective.entropy > 0 or (objective.kl > 0 and objective.kl_in == "loss")
    for group in groups:
        advantages = group_advantages(rewards_of(group), objective, moments)
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


def rewards_of(group: RolloutGroup) -> GroupRewards:
    """A group as advantage estimators see it."""
    lengths = np.array([len(rollout.token_ids) for rollout in group.rollouts], dtype=np.int64)
    return GroupRewards(group.rewards, group.from_explorer, lengths)


def train_sequence(group: RolloutGroup, rollout: Rollout, advantage: float, weight: float) -> TrainSequence:
    """A rollout behind its prompt, which has at least one token."""
    ids = np.concatenate([group.prompt_token_ids, rollout.token_ids]).astype(np.int64)
    explorer = rollout.source == "explorer"
    return TrainSequence(ids, len(rollout.token_ids), rollout.logprobs, explorer, advantage, weight)


def by_source(mini_batches: list[list[RolloutGroup]]) -> list[list[RolloutGroup]]:
    """`objective.grouping: separate`: two optimizer steps for each mini-batch, as in the authors' release.

    The explorer's sub-groups come first, then the learner's. A prompt without a rollout of the source has no sub-group
    there; a step may be left without any.
    """
    return [
        [part for group in mini if (part := _of_source(group, source)).rollouts]
        for mini in mini_batches
        for source in STEP_ORDER
    ]


def _of_source(group: RolloutGroup, source: Source) -> RolloutGroup:
    return replace(group, rollouts=[r for r in group.rollouts if r.source == source])


def all_sequences(mini_batches: list[list[RolloutGroup]]) -> list[TrainSequence]:
    """Every rollout with at least one token, without advantage or weight, in the order of `penalised_groups`."""
    groups = [group for mini in mini_batches for group in mini]
    return [train_sequence(g, r, 0.0, 0.0) for g in groups for r in g.rollouts if len(r.token_ids)]


def penalised_groups(mini_batches: list[list[RolloutGroup]], penalties: list[float]) -> list[list[RolloutGroup]]:
    """The same groups with each rollout's penalty taken off its reward; an empty response has none."""
    remaining = iter(penalties)

    def penalised(rollout: Rollout) -> Rollout:
        penalty = next(remaining) if len(rollout.token_ids) else 0.0
        if rollout.verdict is None:
            raise GroupError(f"a rollout of prompt {rollout.prompt_id} was not verified")
        return replace(rollout, verdict=replace(rollout.verdict, reward=rollout.reward - penalty))

    return [[replace(g, rollouts=[penalised(r) for r in g.rollouts]) for g in mini] for mini in mini_batches]


class OverlongBuffer(NamedTuple):
    """The settings of `overlong_punishment`."""

    max_tokens: int
    buffer_tokens: int
    largest: float


def overlong_buffer(objective: ObjectiveConfig, max_tokens: int | None) -> OverlongBuffer | None:
    """The soft overlong punishment that the configuration asks for, if any.

    Raises:
        ConfigError: it does, and `max_tokens` (rollout.max_tokens) is not given.
    """
    if objective.overlong_buffer_tokens is None:
        return None
    if max_tokens is None:
        raise ConfigError("objective.overlong_buffer_tokens needs max_tokens, the run's rollout.max_tokens")
    largest = 1.0 if objective.overlong_penalty is None else objective.overlong_penalty
    return OverlongBuffer(max_tokens, objective.overlong_buffer_tokens, largest)


def punished_groups(mini_batches: list[list[RolloutGroup]], overlong: OverlongBuffer) -> list[list[RolloutGroup]]:
    """The same groups with the soft overlong punishment taken off each rollout's reward."""
    lengths = np.array([sequence.response_tokens for sequence in all_sequences(mini_batches)])
    punishments = overlong_punishment(lengths, **overlong._asdict())
    return penalised_groups(mini_batches, punishments.tolist())


def mini_batch_moments(
    groups: list[RolloutGroup], objective: ObjectiveConfig, all_reduce_sum: Callable[[Tensor], Tensor]
) -> BatchMoments | None:
    """Moments of the mini-batch over all ranks, where the advantage needs them (a collective then), else None."""
    if not is_over_batch(objective.advantage):
        return None
    seen = [rewards_of(group) for group in groups]
    return batch_moments(
        np.concatenate([np.zeros(0), *(estimated(group, objective) for group in seen)]),
        np.concatenate([np.zeros(0, np.int64), *(group.lengths for group in seen)]),
        lambda sums: all_reduce_sum(torch.from_numpy(sums)).numpy(),
    )


def micro_batch_loss(
    batch: MicroBatch,
    scores: TokenScores,
    reference: Tensor | None,
    objective: ObjectiveConfig,
    sums: MetricSums,
    *,
    first_step: bool = True,
) -> Tensor:
    """The part of the mini-batch loss that one micro-batch has, a scalar.

    The parts of all micro-batches and ranks add up to the loss.

    Args:
        scores: of the policy that is trained.
        reference: float32 [N], log-probs under the reference; None without KL in the loss.
        first_step: whether no optimizer step of this update has been taken, so that `scores` are of the weights before
            it. In later ones the batch has old log-probs, or has them from the engine.
    """
    logprobs = scores.logprobs
    before = logprobs.detach() if first_step else batch.old_logprobs
    old = batch.engine_logprobs if batch.old_from_engine or before is None else before
    tokens = LossTokens(logprobs, old, batch.advantages, batch.lengths, batch.from_explorer, batch.engine_logprobs)
    policy = policy_loss(tokens, objective)
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
    sums.add_tokens(batch, before, policy, corrected, scores.entropy.detach())
    return (per_token * batch.weights).sum()


def corrections(batch: MicroBatch, old: Tensor, objective: ObjectiveConfig) -> Correction | None:
    """Importance weights of a micro-batch, each token's by its source's level; None if neither source is corrected."""
    goal = objective.correction
    if goal.explorer == goal.learner == "none":
        return None
    levels: dict[Source, str] = {"explorer": goal.explorer, "learner": goal.learner}
    explorer, learner = (
        correction(old - batch.engine_logprobs, batch.lengths, source=source, level=level, mode=goal.mode, cap=goal.cap)
        for source, level in levels.items()
    )
    return Correction(
        torch.where(batch.from_explorer, explorer.weights, learner.weights),
        torch.where(batch.from_explorer, explorer.kept, learner.kept),
    )
