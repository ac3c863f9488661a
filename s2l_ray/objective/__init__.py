"""The GRPO objective over mixed groups: one idea per file, each a pure function."""

from s2l_ray.objective.advantage import GroupAdvantages, group_advantages
from s2l_ray.objective.aggregation import token_weights
from s2l_ray.objective.kl import k3
from s2l_ray.objective.policy_loss import PolicyLoss, clipped_policy_loss

__all__ = ["GroupAdvantages", "PolicyLoss", "clipped_policy_loss", "group_advantages", "k3", "token_weights"]
