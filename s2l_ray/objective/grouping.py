"""`grouping: separate`: explorer and learner sub-groups, each its own optimizer step, as in the authors' release."""

from __future__ import annotations

from dataclasses import replace

from s2l_ray.kinds import Source
from s2l_ray.rollouts.records import RolloutGroup

STEP_ORDER: tuple[Source, ...] = ("explorer", "learner")


def by_source(mini_batches: list[list[RolloutGroup]]) -> list[list[RolloutGroup]]:
    """Two optimizer steps for each mini-batch: the explorer's sub-groups first, then the learner's.

    A prompt without a rollout of the source has no sub-group there; a step may be left without any.
    """
    return [
        [part for group in mini if (part := _of_source(group, source)).rollouts]
        for mini in mini_batches
        for source in STEP_ORDER
    ]


def _of_source(group: RolloutGroup, source: Source) -> RolloutGroup:
    return replace(group, rollouts=[r for r in group.rollouts if r.source == source])
