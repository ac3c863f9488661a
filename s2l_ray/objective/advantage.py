"""Group-relative advantages over the mixed group: explorer and learner rollouts share one mean and one deviation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STD_EPS = 1e-6
"""Added to the deviation before dividing, as verl's `compute_grpo_outcome_advantage` does; the authors use verl."""


@dataclass(frozen=True)
class GroupAdvantages:
    """What one group says about its rollouts."""

    values: np.ndarray
    """float64 [G]."""
    zero_variance: bool
    """All rewards are equal: every advantage is exactly 0."""


def group_advantages(
    rewards: np.ndarray, from_explorer: np.ndarray, *, normalise_std: bool, explorer_negatives: float = 1.0
) -> GroupAdvantages:
    """Reward minus the group's mean, over the group's deviation if `normalise_std`.

    The deviation is the sample standard deviation (ddof = 1), the choice of TRL and verl; Algorithm 1 of
    arXiv 2605.30789 normalises over the combined group and leaves the estimator open.

    Args:
        rewards: float [G], G >= 2.
        from_explorer: bool [G].
        explorer_negatives: factor on negative advantages of explorer rollouts, after normalising.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.min() == rewards.max():  # a mean is rounded, so rewards - mean need not be exactly 0
        return GroupAdvantages(np.zeros_like(rewards), zero_variance=True)
    values = rewards - rewards.mean()
    if normalise_std:
        values = values / (rewards.std(ddof=1) + STD_EPS)
    values = np.where(np.asarray(from_explorer) & (values < 0), values * explorer_negatives, values)
    return GroupAdvantages(values, zero_variance=False)
