"""The objective in pure functions: rewards to advantages, log-probs to token losses, and the weight of each token.

advantages.py, losses.py and weighting.py each hold a registry (`s2l_ray.extensions`); kl.py holds the KL estimators.
The configuration imports this package to know the registered names, so that nothing here imports torch at its top.
"""

from s2l_ray.objective.advantages import (
    ADVANTAGES,
    AdvantageOptions,
    BatchMoments,
    GroupAdvantages,
    GroupRewards,
    WholeBatch,
    batch_moments,
    estimated,
    group_advantages,
    is_over_batch,
    overlong_punishment,
)
from s2l_ray.objective.kl import KL_ESTIMATORS, k1, k2, k3
from s2l_ray.objective.losses import LOSSES, LossOptions, LossTokens, PolicyLoss, policy_loss
from s2l_ray.objective.packed import sequence_sums, spread
from s2l_ray.objective.weighting import CORRECTIONS, Correction, correction, token_weights

__all__ = [
    "ADVANTAGES",
    "CORRECTIONS",
    "KL_ESTIMATORS",
    "LOSSES",
    "AdvantageOptions",
    "BatchMoments",
    "Correction",
    "GroupAdvantages",
    "GroupRewards",
    "LossOptions",
    "LossTokens",
    "PolicyLoss",
    "WholeBatch",
    "batch_moments",
    "correction",
    "estimated",
    "group_advantages",
    "is_over_batch",
    "k1",
    "k2",
    "k3",
    "overlong_punishment",
    "policy_loss",
    "sequence_sums",
    "spread",
    "token_weights",
]
