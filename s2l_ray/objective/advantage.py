"""Group-relative advantages: explorer and learner rollouts of a group share one mean and one deviation.

With `grouping: separate` a group is one source's rollouts of a prompt (objective/grouping.py); nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2l_ray.kinds import AdvantageKind
from s2l_ray.objective.estimators import BATCH_ESTIMATORS, batch_baseline, grpo, pass_at_k, rloo
from s2l_ray.objective.whitening import BatchMoments, whiten


@dataclass(frozen=True)
class GroupAdvantages:
    """What one group says about its rollouts."""

    values: np.ndarray
    """float64 [G]."""
    zero_variance: bool
    """All rewards are equal: every advantage is exactly 0, except with an estimator that normalises over the batch."""


def group_advantages(
    rewards: np.ndarray,
    from_explorer: np.ndarray,
    *,
    normalise_std: bool,
    explorer_negatives: float = 1.0,
    recentre: bool = False,
    estimator: AdvantageKind = "grpo",
    pass_k: int | None = None,
    batch: BatchMoments | None = None,
) -> GroupAdvantages:
    """The estimator's advantages, then the weight of the explorer's negative ones.

    Args:
        rewards: float [G], G >= 2.
        from_explorer: bool [G].
        normalise_std: grpo and pass_at_k: divide by the group's deviation.
        explorer_negatives: factor on negative advantages of explorer rollouts, after normalising.
        recentre: then subtract the mean, so that the group's advantages add up to 0 again: what the explorer's
            mistakes no longer push down is taken from everyone alike.
        pass_k: k of pass_at_k.
        batch: of the whole mini-batch, for the estimators that normalise over it.

    Raises:
        GroupError: pass_at_k on rewards other than 0 and 1.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    zero_variance = bool(rewards.min() == rewards.max())
    if estimator in BATCH_ESTIMATORS:
        assert batch is not None, f"{estimator} needs the moments of the mini-batch"
        values = whiten(batch_baseline(rewards, estimator), batch)
    elif zero_variance:  # a mean is rounded, so rewards - mean need not be exactly 0
        return GroupAdvantages(np.zeros_like(rewards), zero_variance=True)
    elif estimator == "grpo":
        values = grpo(rewards, normalise_std=normalise_std)
    elif estimator == "rloo":
        values = rloo(rewards)
    else:
        assert pass_k is not None, "pass_at_k needs pass_k"
        values = pass_at_k(rewards, pass_k, normalise_std=normalise_std)
    values = np.where(np.asarray(from_explorer) & (values < 0), values * explorer_negatives, values)
    return GroupAdvantages(values - values.mean() if recentre else values, zero_variance)
