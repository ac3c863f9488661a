"""The gradient that each prompt's rollout group contributes to an update of the learner, projected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from s2l_ray.diversity.projection import CountSketch
from s2l_ray.errors import ConfigError
from s2l_ray.objective import is_over_batch
from s2l_ray.rollouts.records import RolloutGroup, RolloutSet
from s2l_ray.training.metrics import MetricSums
from s2l_ray.training.model import PackedPolicy
from s2l_ray.training.packing import RankShare, micro_batches, pack
from s2l_ray.training.update import micro_batch_loss, prepare_share

if TYPE_CHECKING:
    from s2l_ray.config import ObjectiveConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GroupGradients:
    """The gradients of J groups of each of P prompts."""

    projected: Floats
    """float64 [P, J, cells]."""
    empty: Floats
    """float64 [P]: share of a prompt's groups whose rewards are all equal, and whose gradient is 0."""


def groups_of(problem: RolloutSet, size: int) -> list[RolloutGroup]:
    """As many disjoint groups of `size` rollouts as a problem has, in order; what is left over is not used."""
    return [
        RolloutGroup(problem.prompt_id, problem.prompt_token_ids, problem.rollouts[start : start + size])
        for start in range(0, len(problem.rollouts) - size + 1, size)
    ]


def check_objective(objective: ObjectiveConfig) -> None:
    """Refuse what has no gradient of one prompt, or needs more than the learner.

    Raises:
        ConfigError: the advantage is normalised over the mini-batch, there is a KL to a reference, or the ratio is to
            the engines' log-probs.
    """
    if is_over_batch(objective.advantage):
        raise ConfigError(
            f"objective.advantage={objective.advantage} is normalised over a mini-batch, so that a prompt has no "
            "gradient of its own; measure with grpo, rloo or pass_at_k"
        )
    if objective.kl:
        raise ConfigError(
            "objective.kl: the gradient is measured at the reference itself, where the KL is 0; set it to 0"
        )
    if objective.old_logprobs != "trainer":
        raise ConfigError(
            "objective.old_logprobs: the gradient is measured under the weights before a step, where every ratio is 1; "
            "set it to trainer"
        )


class PromptGradients:
    """Computes gradients of the learner.

    Args:
        policy: the learner, at the temperature that it is trained at.
        objective: whose advantages, loss and weights are used; see `check_objective`.
        sketch: projects them.
        budget: tokens of a packed row.
    """

    def __init__(self, policy: PackedPolicy, objective: ObjectiveConfig, sketch: CountSketch, budget: int) -> None:
        check_objective(objective)
        self._policy, self._objective, self._sketch, self._budget = policy, objective, sketch, budget
        self._parameters = [p for p in policy.parameters() if p.requires_grad]

    def of(self, problems: Sequence[RolloutSet], size: int, progress: Callable[[int, int], None]) -> GroupGradients:
        """The gradients of disjoint groups of `size` rollouts, scaled so that the mean over all is a mini-batch's.

        The mini-batch is that of all groups. The learner's weights are those before the step: every ratio is 1.

        Raises:
            ConfigError: problems have fewer than `size` samples.
        """
        groups = [groups_of(problem, size) for problem in problems]
        if not all(groups):
            raise ConfigError(f"a group of {size} needs as many samples of each problem; draw more, or make it smaller")
        lengths = [len(r.token_ids) for of_problem in groups for group in of_problem for r in group.rollouts]
        count = sum(map(len, groups))
        rows, empty, done = [], [], 0
        for of_problem in groups:
            shares = [self._share(group, sum(lengths), len(lengths)) for group in of_problem]
            rows.append([self._gradient(share) * count for share in shares])
            empty.append(np.mean([share.zero_variance_groups for share in shares]))
            progress(done := done + len(shares), count)
        return GroupGradients(np.array(rows), np.array(empty, dtype=np.float64))

    def _share(self, group: RolloutGroup, tokens: int, sequences: int) -> RankShare:
        return prepare_share([group], self._objective, total_tokens=max(tokens, 1), total_sequences=sequences)

    def _gradient(self, share: RankShare) -> Floats:
        if not share.sequences:
            return np.zeros(self._sketch.cells)
        device = self._parameters[0].device
        ignored = MetricSums(device)
        self._policy.zero_grad(set_to_none=True)
        for row in micro_batches(share.sequences, self._budget):
            batch = pack(row).to(device)
            micro_batch_loss(batch, self._policy(batch), None, self._objective, ignored).backward()
        projected = self._sketch.project(parameter.grad for parameter in self._parameters)
        self._policy.zero_grad(set_to_none=True)
        return projected
