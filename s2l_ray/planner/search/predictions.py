"""A chosen placement as a plan: seconds, utilisation and FLOPs of every phase, weight syncs, and the saving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from s2l_ray.kinds import Role, Transfer
from s2l_ray.placement.plan import DeviceLoad, Layout, PhasePlan, Plan, Saving, WeightSyncPlan
from s2l_ray.planner import costs
from s2l_ray.planner.costs import StepParts
from s2l_ray.planner.search.frame import Frame
from s2l_ray.planner.workload import Split

VERIFIED_PER_S = 500.0
"""Answers that a verifier actor checks per second: rule-based mathematics, mostly short."""


@dataclass(frozen=True)
class Placement:
    """A placement that a planner chose."""

    layout: Layout
    ranks: int
    tensor_parallel: dict[Role, int]
    loads: list[tuple[DeviceLoad, ...]]
    """For every phase, what each device holds."""
    parts: Callable[[int, Split], StepParts[float]]
    """The parts of a step with this split in the phase with this number."""
    phase_seconds: list[float]
    """Seconds of all steps of each phase, hand-overs and the wait of the first step included."""


def finished_plan(frame: Frame, placement: Placement) -> Plan:
    """The plan that carries a placement out, with what it predicts. Notes and alternatives are the planner's to add."""
    phases = tuple(_phase_plan(frame, placement, number) for number in range(len(frame.work.phases)))
    return Plan(
        fits=True,
        problems=(),
        mode=placement.layout.mode,
        layout=placement.layout,
        phases=phases,
        weight_sync=weight_sync_plan(frame, phases, placement.layout),
        saving=saving(frame, phases),
        run_seconds=sum(placement.phase_seconds),
        ranks=placement.ranks,
        tensor_parallel=placement.tensor_parallel,
    )


def _phase_plan(frame: Frame, placement: Placement, number: int) -> PhasePlan:
    phase, layout, loads = frame.work.phases[number], placement.layout, placement.loads[number]
    parts = [placement.parts(number, split) for split in phase.splits]
    weights = [split.steps for split in phase.splits]
    seconds = {
        item.name: float(np.average([getattr(part, item.name) for part in parts], weights=weights))
        for item in fields(StepParts)
    }
    sampled = [split.learner + frame.work.explored(split) for split in phase.splits]
    rollouts = frame.work.prompts * float(np.average(sampled, weights=weights))
    seconds["verify"] = rollouts / (frame.config.verifier.workers * VERIFIED_PER_S)
    step = placement.phase_seconds[number] / phase.steps
    slots = layout.phase_at(phase.first_step)
    devices: dict[Role, int] = {"trainer": len(slots.trainers)}
    devices |= {role: sum(slot.tensor_parallel for slot in slots.engines_of(role)) for role in frame.roles}
    mini = frame.work.mini_batch_prompts
    with_work = mini / (-(-mini // devices["trainer"]) * devices["trainer"])  # of the ranks, on average
    busy: dict[Role, float] = {
        "learner": seconds["learner_generate"],
        "explorer": seconds["explore"],
        "trainer": seconds["update"] * with_work + seconds["weight_sync"],
    }
    utilisation: dict[str, float] = {role: min(1.0, busy[role] / step) for role, count in devices.items() if count}
    everything = max(1, len(loads) if layout.device == "gpu" else sum(devices.values()))
    utilisation["all"] = min(1.0, sum(busy[role] * count for role, count in devices.items()) / step / everything)
    return PhasePlan(
        name=phase.name,
        steps=phase.steps,
        first_step=phase.first_step,
        last_step=phase.last_step,
        step_seconds=step,
        seconds=seconds,
        utilisation=utilisation,
        explorer_flops=sum(
            s.steps * costs.rollout_flops(frame.explorer, frame.sampling(frame.work.explored(s))) for s in phase.splits
        ),
        learner_flops=sum(
            s.steps * costs.rollout_flops(frame.learner, frame.sampling(s.learner)) for s in phase.splits
        ),
        gpus=loads,
    )


def saving(frame: Frame, phases: tuple[PhasePlan, ...]) -> Saving:
    """Rollout FLOPs of the run against those of plain GRPO."""
    whole = costs.rollout_flops(frame.learner, frame.sampling(frame.work.group_size))
    return Saving(
        explorer_flops=sum(phase.explorer_flops for phase in phases),
        learner_flops=sum(phase.learner_flops for phase in phases),
        grpo_flops=frame.work.steps * whole,
    )


def weight_sync_plan(frame: Frame, phases: tuple[PhasePlan, ...], layout: Layout) -> WeightSyncPlan:
    """The slowest weight sync of the run, and the most engines that weights reach in each way."""
    transfers: dict[Transfer, int] = {}
    for phase in layout.phases:
        ways = [slot.transfer for slot in phase.engines if slot.transfer]
        for way in dict.fromkeys(ways):
            transfers[way] = max(transfers.get(way, 0), ways.count(way))
    return WeightSyncPlan(
        bytes=costs.weight_sync_bytes(frame.learner, frame.dtype_bytes),
        seconds=max(phase.seconds["weight_sync"] for phase in phases),
        transfers=transfers,
    )
