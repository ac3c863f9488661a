"""Advantage estimators of one group, each a function of its rewards (float64 [G] in, float64 [G] out)."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np

from s2l_ray.errors import GroupError
from s2l_ray.kinds import AdvantageKind

BATCH_ESTIMATORS = ("reinforce++", "reinforce++_baseline")
"""Those whose values are normalised over the mini-batch afterwards (objective/whitening.py)."""

STD_EPS = 1e-6
"""Added to the deviation before dividing, as verl's `compute_grpo_outcome_advantage` does; the authors use verl."""


def grpo(rewards: np.ndarray, *, normalise_std: bool) -> np.ndarray:
    """Reward minus the group's mean, over the group's deviation if `normalise_std` (arXiv 2402.03300).

    The deviation is the sample standard deviation (ddof = 1), the choice of TRL and verl; Algorithm 1 of
    arXiv 2605.30789 normalises over the combined group and leaves the estimator open. Without the deviation it is
    Dr. GRPO's advantage (arXiv 2503.20783).
    """
    values = rewards - rewards.mean()
    return values / (rewards.std(ddof=1) + STD_EPS) if normalise_std else values


def rloo(rewards: np.ndarray) -> np.ndarray:
    """Reward minus the mean of the G - 1 others (REINFORCE leave-one-out, arXiv 2402.14740).

    Equals G / (G - 1) times the reward minus the mean of all G.
    """
    others = len(rewards) - 1
    return rewards - (rewards.sum() - rewards) / others


def batch_baseline(rewards: np.ndarray, estimator: AdvantageKind) -> np.ndarray:
    """What REINFORCE++ (arXiv 2501.03262) normalises: rewards; in its baseline variant, less the group's mean."""
    if estimator == "reinforce++":
        return rewards
    if rewards.min() == rewards.max():  # a mean is rounded
        return np.zeros_like(rewards)
    return rewards - rewards.mean()


def pass_at_k(rewards: np.ndarray, k: int, *, normalise_std: bool) -> np.ndarray:
    """Advantages of maximising pass@k, averaged analytically over all k-subsets of the group (arXiv 2508.10751).

    A subset is right when one of its rollouts is. With W wrong of G the mean over subsets is m = 1 - C(W, k) / C(G, k)
    and the deviation sqrt(m (1 - m)). A rollout's value is the mean of subset reward - m over the subsets that hold it:
    1 - m if it is right (all of them are), 1 - m - C(W - 1, k - 1) / C(G - 1, k - 1) if it is wrong. Values add up to
    0; all are 0 when every subset is right (W < k) or none is. k = 1 is GRPO with the population deviation.

    Raises:
        GroupError: a reward is neither 0 nor 1.
    """
    if not np.isin(rewards, (0.0, 1.0)).all():
        raise GroupError(
            f"objective.advantage=pass_at_k needs rewards of 0 or 1, not {rewards.tolist()}; "
            "use another estimator, or a verifier that says right or wrong"
        )
    size, wrong = len(rewards), int((rewards == 0).sum())
    if wrong < k or wrong == size:
        return np.zeros_like(rewards)
    mean = 1 - comb(wrong, k) / comb(size, k)
    if_wrong = comb(wrong - 1, k - 1) / comb(size - 1, k - 1)
    values = 1 - mean - if_wrong * (rewards == 0)
    return values / sqrt(mean * (1 - mean)) if normalise_std else values
