"""The groups of one step as the scheduler hands them out: rollouts by reference, and their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from s2l_ray.rollouts.records import RolloutSummary
from s2l_ray.rollouts.step_planner import balance, mini_batches
from s2l_ray.schedule import GroupSplit
from s2l_ray.timing import Span


@dataclass(frozen=True)
class GroupRefs:
    """One whole group: refs of its scored rollout sets in the object store."""

    prompt_id: str
    parts: list[ray.ObjectRef]
    tokens: int


@dataclass(frozen=True)
class StepBatch:
    """One step's groups for the trainer, and their numbers for the driver."""

    split: GroupSplit
    prompts: list[str]
    assignment: list[list[list[GroupRefs]]]
    """[rank][mini-batch]: whole groups, balanced by tokens."""
    summaries: list[RolloutSummary]
    spans: dict[str, float]
    """Seconds from sending the first request of a source to its last verdict: "explore" (which may have begun, and
    ended, while the trainer worked on earlier steps) and "learner_generate". What samples nothing has none."""
    work: list[Span]
    """The work of engines, verifiers and bank since the step before, on this step and on coming ones."""
    under_way: list[Span]
    """Work that they have begun and not finished."""
    refilled: int
    """Groups sampled to replace groups without variance, used or not."""
    explorer_only: tuple[int, int]
    """See `step_planner.solved_by_explorer_only`."""
    stragglers: list[str]
    """Prompts whose groups were not whole when enough others were (rollout.straggler_groups)."""
    stale_dropped: int
    """Rollouts that were too old, and were sampled again."""
    banked: int
    """Rollouts that came from the bank."""
    banked_prompts: frozenset[str]
    """Prompts whose explorer rollouts came from there, also of groups that were not used."""
    redone: int
    """Requests and checks that were done again since the step before, because a worker was lost in the middle."""
    prefetched_bytes: int
    """Bytes that prefetched explorer rollouts hold, or may come to hold, in the object store."""


@dataclass(frozen=True)
class Group:
    """One whole group: its parts by reference, and their numbers."""

    prompt_id: str
    parts: list[ray.ObjectRef]
    rows: list[RolloutSummary]

    @property
    def refs(self) -> GroupRefs:
        """What the trainer ranks need of the group."""
        tokens = sum(row.prompt_tokens + row.response_tokens for row in self.rows)
        return GroupRefs(self.prompt_id, self.parts, tokens)


def assign(found: list[Group], ranks: int, mini_batch_prompts: int) -> list[list[list[GroupRefs]]]:
    """[rank][mini-batch]: the groups of every optimizer step, balanced over the ranks by tokens."""
    groups = [group.refs for group in found]
    per_rank: list[list[list[GroupRefs]]] = [[] for _ in range(ranks)]
    for batch in mini_batches(len(groups), mini_batch_prompts):
        chosen = balance([groups[i].tokens for i in batch], ranks)
        for rank, items in enumerate(chosen):
            per_rank[rank].append([groups[batch[i]] for i in items])
    return per_rank
