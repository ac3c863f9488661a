"""Make a plan from a configuration and an inventory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.placement.dtype import DtypeChoice, choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.plan import Plan
from s2l_ray.planner.search.candidate_search import Search
from s2l_ray.planner.search.candidates import Candidate
from s2l_ray.planner.search.cpu_plan import plan_cpus
from s2l_ray.planner.search.explanations import alternatives, notes, problems
from s2l_ray.planner.search.frame import Frame, lacks_gpus, make_frame
from s2l_ray.planner.search.handover import late_seconds
from s2l_ray.planner.search.layout import build_layout
from s2l_ray.planner.search.loads import gpu_loads
from s2l_ray.planner.search.predictions import Placement, finished_plan

if TYPE_CHECKING:
    from s2l_ray.config import Config


def make_plan(
    config: Config,
    inventory: Inventory,
    *,
    mean_response_tokens: float | None = None,
    dtype: DtypeChoice | None = None,
) -> Plan:
    """The fastest placement that fits, by the cost model (`costs`). The same input gives the same plan.

    Args:
        dtype: in which type the run computes; default: what models.dtype means on these nodes.
        mean_response_tokens: expected over the run; default: `workload.MEAN_OF_LIMIT` of rollout.max_tokens.

    Returns:
        A plan with `fits` False and `problems` where nothing fits.

    Raises:
        PlacementError: real and logical GPUs are in one inventory.
        ModelError: a model's shape is not known.
    """
    dtype = dtype or choose_dtype(config, inventory)
    plan = _plan(dtype.applied_to(config), inventory, mean_response_tokens)
    return replace(plan, dtype=dtype, notes=(*plan.notes, *([dtype.advice] if dtype.advice else [])))


def _plan(config: Config, inventory: Inventory, mean_response_tokens: float | None) -> Plan:
    if lack := lacks_gpus(config, inventory):
        return Plan(False, (lack,))
    frame = make_frame(config, inventory, mean_response_tokens=mean_response_tokens)
    return plan_cpus(frame) if frame.device == "cpu" else _plan_gpus(frame)


def _plan_gpus(frame: Frame) -> Plan:
    search = Search(frame)
    found = search.run()
    others = alternatives(found, search)
    if not found.best:
        return Plan(False, problems(found, search), alternatives=others)
    best = found.ordered[0]
    layout = build_layout(best, frame)
    placement = Placement(
        layout=layout,
        ranks=best.key.ranks,
        tensor_parallel={role: best.key.tp(role) for role in frame.roles},
        loads=gpu_loads(best, layout, search),
        parts=lambda number, split: search.timing.parts(best, best.bundles.learner[number], split),
        phase_seconds=_phase_seconds(best, search),
    )
    plan = finished_plan(frame, placement)
    return replace(plan, notes=notes(best, found, search, plan.phases), alternatives=others)


def _phase_seconds(best: Candidate, search: Search) -> list[float]:
    """Seconds of all steps of each phase, with what the first step waits and what hand-overs cost."""
    learner = best.bundles.learner
    start_s = search.timing.rates(best.key.samplers).engine_start_s
    seconds = []
    for number in range(len(learner)):
        choices = np.array([learner[max(0, number - 1)], learner[number]])
        phases, wait = search.phase_costs(best, choices)
        total = float(phases[number].seconds[1]) + (float(wait[1]) if number == 0 else 0.0)
        if choices[0] != choices[1]:
            total += float(late_seconds(phases[number], start_s)[0, 1])
        seconds.append(total)
    return seconds
