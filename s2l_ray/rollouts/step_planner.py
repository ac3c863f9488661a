"""The prompts and requests of every step, the checks of its groups, and their division over trainer ranks.

Pure functions: no Ray, no tokens.

A step's prompts, split and seeds are functions of (configuration, seed, step) alone, so a resumed run continues exactly
where it stopped without any saved position but the step number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2l_ray.errors import ConfigError, GroupError
from s2l_ray.kinds import Source
from s2l_ray.rollouts.records import RolloutSummary
from s2l_ray.rollouts.requests import ExplorerRequest, LearnerRequest
from s2l_ray.schedule import AdaptiveSchedule, Schedule
from s2l_ray.seeds import generator

if TYPE_CHECKING:
    from s2l_ray.config import Config

_SPARES = 1
"""Tells the order of spare prompts from other random choices of the same seed and step."""


@dataclass(frozen=True)
class StepPlanner:
    """The prompts and requests of every step (the sampling half of Algorithm 1, arXiv 2605.30789).

    Args:
        prompt_ids: the training set, in file order.
        schedule: G_w and G_s per step.
        prompts_per_step: how many prompts one step takes.
        seed: of the run.
        explorer_seed: of the explorer's rollouts.
        oversampled_prompts: prompts sampled for every step beyond those that it trains on (rollout.straggler_groups).
    """

    prompt_ids: Sequence[str]
    schedule: Schedule | AdaptiveSchedule
    prompts_per_step: int
    seed: int
    explorer_seed: int
    oversampled_prompts: int = 0

    def __post_init__(self) -> None:
        if len(self.prompt_ids) < self.prompts_per_step + self.oversampled_prompts:
            extra = " plus rollout.straggler_groups" if self.oversampled_prompts else ""
            raise ConfigError(
                f"rollout.prompts_per_step{extra} ({self.prompts_per_step + self.oversampled_prompts}) is more than "
                f"data.train holds ({len(self.prompt_ids)})"
            )

    def prompts(self, step: int) -> list[str]:
        """Prompt ids of `step` (1-based): without repetition within a step, each at most once per epoch.

        Every epoch is a fresh permutation; what does not fill a step at its end is left out of that epoch, since two
        groups of one prompt in one step could not be told apart.
        """
        epoch, position = divmod(step - 1, self._steps_per_epoch)
        order = generator(self.seed, epoch).permutation(len(self.prompt_ids))
        chosen = order[position * self.prompts_per_step : (position + 1) * self.prompts_per_step]
        return [self.prompt_ids[i] for i in chosen]

    def sampled_prompts(self, step: int) -> list[str]:
        """The prompts that are sampled for `step`: `prompts`, then `oversampled_prompts` more.

        As many as are oversampled become stragglers: the groups that are whole last are dropped.
        """
        return self.prompts(step) + self.spare_prompts(step)[: self.oversampled_prompts]

    def spare_prompts(self, step: int) -> list[str]:
        """All other prompts in the order in which they may replace those of `step` (dynamic sampling).

        They stay where they are in the epochs, so that what a step replaces does not change any other step's prompts.
        """
        taken = set(self.prompts(step))
        order = generator(self.seed, step, _SPARES).permutation(len(self.prompt_ids))
        return [self.prompt_ids[i] for i in order if self.prompt_ids[i] not in taken]

    def explorer_requests(self, step: int, prompt_ids: Sequence[str]) -> list[ExplorerRequest]:
        """One request of G_w rollouts per prompt; none if G_w is 0.

        Every epoch has G explorer rollouts of each prompt to itself, of which a step takes its first G_w.
        """
        split = self.schedule.split(step)
        if not split.explorer:
            return []
        first_draw = self._epoch(step) * split.size
        return [ExplorerRequest(step, p, split.explorer, self.explorer_seed, first_draw) for p in prompt_ids]

    def learner_requests(self, step: int, prompt_ids: Sequence[str]) -> list[LearnerRequest]:
        """One request of G_s rollouts per prompt, without a weight version yet; none if G_s is 0."""
        split = self.schedule.split(step)
        if not split.learner:
            return []
        return [LearnerRequest(step, p, split.learner, self.seed) for p in prompt_ids]

    @property
    def _steps_per_epoch(self) -> int:
        return len(self.prompt_ids) // self.prompts_per_step

    def _epoch(self, step: int) -> int:
        return (step - 1) // self._steps_per_epoch


def step_planner(config: Config, prompt_ids: Sequence[str]) -> StepPlanner:
    """The requests of a run. `prompt_ids`: the training set, in file order."""
    rollout = config.rollout
    return StepPlanner(
        prompt_ids,
        config.schedule.build(rollout.group_size),
        rollout.prompts_per_step,
        config.seed,
        config.explorer_seed,
        rollout.straggler_groups,
    )


def check_group(prompt_id: str, summaries: Iterable[RolloutSummary], explorer: int, learner: int) -> None:
    """Check that a group is whole: exactly G_w + G_s distinct rollouts of one prompt.

    Raises:
        GroupError: any rollout is of another prompt, missing or double.
    """
    rows = list(summaries)
    if strangers := {r.prompt_id for r in rows} - {prompt_id}:
        raise GroupError(f"rollouts of {sorted(strangers)} came back in the group of prompt {prompt_id}")
    found = sorted((r.source, r.index) for r in rows)
    expected = [("explorer", i) for i in range(explorer)] + [("learner", i) for i in range(learner)]
    if found != expected:
        raise GroupError(f"the group of prompt {prompt_id} should hold rollouts {expected}, but holds {found}")


def staleness(row: RolloutSummary, step: int) -> int:
    """Versions by which a rollout's oldest token is behind the weights that `step` starts from."""
    return step - 1 - row.weight_version


def without_variance(summaries: Iterable[RolloutSummary]) -> bool:
    """Whether all rewards of a group are equal, so that it has no advantage and no gradient."""
    return len({row.reward for row in summaries}) == 1


def solved_by_explorer_only(groups: Iterable[Iterable[RolloutSummary]]) -> tuple[int, int]:
    """(groups with a right rollout of the explorer's and none of the learner's, groups that both sampled)."""
    only = compared = 0
    for group in groups:
        right: dict[Source, bool] = {}
        for row in group:
            right[row.source] = right.get(row.source, False) or row.status == "right"
        if len(right) == 2:
            compared += 1
            only += right["explorer"] and not right["learner"]
    return only, compared


def step_digest(summaries: Iterable[RolloutSummary]) -> str:
    """A hash over prompt ids and response tokens of a step: equal for equal groups, whatever order they arrived in."""
    rows = sorted((r.prompt_id, r.source, r.index, r.digest, r.reward) for r in summaries)
    return hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest()


def balance(tokens: Sequence[int], ranks: int) -> list[list[int]]:
    """Spread items over ranks so that the largest token sum is small: longest first, each to the lightest rank.

    Returns:
        For every rank the item indices, ascending. Deterministic.
    """
    loads = [0] * ranks
    chosen: list[list[int]] = [[] for _ in range(ranks)]
    for item in sorted(range(len(tokens)), key=lambda i: (-tokens[i], i)):
        rank = loads.index(min(loads))
        loads[rank] += tokens[item]
        chosen[rank].append(item)
    return [sorted(items) for items in chosen]


def mini_batches(groups: int, per_batch: int) -> list[range]:
    """Indices of the groups of every optimizer step, in the order of the data."""
    return [range(start, min(start + per_batch, groups)) for start in range(0, groups, per_batch)]
