"""The objective over mixed groups: one idea per file, each a pure function."""

from s2l_ray.objective.advantage import GroupAdvantages, group_advantages
from s2l_ray.objective.aggregation import token_weights
from s2l_ray.objective.correction import Correction, correction
from s2l_ray.objective.estimators import BATCH_ESTIMATORS, batch_baseline, pass_at_k, rloo
from s2l_ray.objective.grouping import by_source
from s2l_ray.objective.kl import KL_ESTIMATORS, k1, k2, k3
from s2l_ray.objective.overlong import overlong_punishment
from s2l_ray.objective.per_sequence import sequence_sums
from s2l_ray.objective.policy_loss import (
    PolicyLoss,
    cispo_policy_loss,
    clipped_policy_loss,
    gspo_policy_loss,
    sapo_policy_loss,
)
from s2l_ray.objective.whitening import BatchMoments, batch_moments, whiten

__all__ = [
    "BATCH_ESTIMATORS",
    "KL_ESTIMATORS",
    "BatchMoments",
    "Correction",
    "GroupAdvantages",
    "PolicyLoss",
    "batch_baseline",
    "batch_moments",
    "by_source",
    "cispo_policy_loss",
    "clipped_policy_loss",
    "correction",
    "group_advantages",
    "gspo_policy_loss",
    "k1",
    "k2",
    "k3",
    "overlong_punishment",
    "pass_at_k",
    "rloo",
    "sapo_policy_loss",
    "sequence_sums",
    "token_weights",
    "whiten",
]
