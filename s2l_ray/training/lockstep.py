"""Keeping the ranks in step: every forward, backward and optimizer step is a collective that all ranks must join."""

from __future__ import annotations

import torch

from s2l_ray.errors import GroupError
from s2l_ray.rollouts.records import RolloutGroup
from s2l_ray.training.packing import MicroBatch, TrainSequence, idle_micro_batch, micro_batches, pack
from s2l_ray.training.process_group import all_reduce_max, all_reduce_sum


def check_mini_batches(mini_batches: list[list[RolloutGroup]]) -> None:
    """Check what every rank was given for one update. A collective.

    Raises:
        GroupError: ranks disagree on the number of mini-batches, there is none, or a prompt has no tokens.
    """
    count = len(mini_batches)
    most, fewest = all_reduce_max(torch.tensor([count, -count])).tolist()
    if most != -fewest or most == 0:
        raise GroupError(f"every rank needs the same number (> 0) of mini-batches; here {count}, elsewhere {most}")
    for group in (g for mini in mini_batches for g in mini):
        if len(group.prompt_token_ids) == 0:
            raise GroupError(f"prompt {group.prompt_id} has no tokens; a response needs at least one before it")


def without_empty(steps: list[list[RolloutGroup]]) -> list[list[RolloutGroup]]:
    """Leave out the optimizer steps of which no rank has a group. A collective.

    Raises:
        GroupError: no step is left.
    """
    counts = all_reduce_sum(torch.tensor([len(groups) for groups in steps])).tolist()
    if not any(counts):
        raise GroupError("no rank has a group to train on")
    return [groups for groups, count in zip(steps, counts, strict=True) if count]


def pack_in_step(
    steps: list[list[TrainSequence]], budget: int, device: torch.device, *, old_from_engine: bool = False
) -> list[list[MicroBatch]]:
    """Micro-batches on the device, equally many (and at least one) per optimizer step on every rank. A collective.

    A rank with less to do runs idle micro-batches.

    Args:
        steps: the sequences of each optimizer step on this rank.
        budget: tokens of a micro-batch, see `micro_batches`.
        old_from_engine: pack the learner's rollouts apart, as such whose ratio is to the engine's log-probs. Which
            micro-batches these are is the same on every rank.
    """
    if not old_from_engine:
        return _in_step(steps, budget, device, least=1)
    explored = [[sequence for sequence in of_one if sequence.from_explorer] for of_one in steps]
    learned = [[sequence for sequence in of_one if not sequence.from_explorer] for of_one in steps]
    recomputed, engines = (_in_step(explored, budget, device, least=0), _in_step(learned, budget, device, least=1))
    for batch in (batch for of_one in engines for batch in of_one):
        batch.old_from_engine = True
    return [[*ours, *theirs] for ours, theirs in zip(recomputed, engines, strict=True)]


def _in_step(
    steps: list[list[TrainSequence]], budget: int, device: torch.device, *, least: int
) -> list[list[MicroBatch]]:
    rows = [micro_batches(sequences, budget) for sequences in steps]
    counts = all_reduce_max(torch.tensor([max(least, len(r)) for r in rows])).tolist()
    return [
        [(pack(row) if row else idle_micro_batch()).to(device) for row in own + [[]] * (count - len(own))]
        for own, count in zip(rows, counts, strict=True)
    ]
