"""From a configuration and an inventory to a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.errors import PlacementError
from s2l_ray.placement.dtype import DtypeChoice, choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.plan import Plan
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.search.candidate_search import Found, Search
from s2l_ray.planner.search.candidates import Candidate, Frame
from s2l_ray.planner.search.cpu_plan import plan_cpus
from s2l_ray.planner.search.explanations import alternatives, notes, problems
from s2l_ray.planner.search.handover import late_seconds
from s2l_ray.planner.search.layout import build_layout
from s2l_ray.planner.search.loads import gpu_loads
from s2l_ray.planner.search.predictions import phase_plans, saving, weight_sync_plan
from s2l_ray.planner.workload import workload

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
    device = config.placement.device
    if device == "auto":
        device = "gpu" if inventory.gpus else "cpu"
    if device == "gpu" and not inventory.gpus:
        return Plan(False, (f"placement.device is gpu, but there are none on {inventory.describe()}",))
    kinds = {spec.real_gpus for spec in inventory.specs if spec.gpus}
    if device == "gpu" and len(kinds) > 1:
        raise PlacementError("an inventory has either real or logical GPUs, not both")
    cuda = device == "gpu" and kinds == {True}
    frame = Frame(
        config=config,
        inventory=inventory,
        work=workload(config, cuda=cuda, mean_response_tokens=mean_response_tokens),
        learner=ModelShape.load(config.models.learner),
        explorer=ModelShape.load(config.models.explorer),
        cuda=cuda,
    )
    return plan_cpus(frame) if device == "cpu" else _plan_gpus(frame)


def _plan_gpus(frame: Frame) -> Plan:
    search = Search(frame)
    found = search.run()
    others = alternatives(found, search)
    if not found.best:
        return Plan(False, problems(found, search), alternatives=others)
    return _described(found.ordered[0], found, search)


def _described(best: Candidate, found: Found, search: Search) -> Plan:
    """The winner in full."""
    frame, key = search.frame, best.key
    layout = build_layout(best, frame)
    loads = gpu_loads(best, layout, search)
    phases = phase_plans(
        frame,
        key.mode,
        lambda number, split: search.timing.parts(best, best.bundles.learner[number], split),
        _phase_seconds(best, search),
        layout,
        loads,
    )
    return Plan(
        fits=True,
        problems=(),
        mode=key.mode,
        layout=layout,
        phases=phases,
        weight_sync=weight_sync_plan(frame, phases, layout),
        saving=saving(frame, phases),
        run_seconds=sum(phase.steps * phase.step_seconds for phase in phases),
        ranks=key.ranks,
        tensor_parallel={role: key.tp(role) for role in frame.roles},
        notes=notes(best, found, search, phases),
        alternatives=alternatives(found, search),
    )


def _phase_seconds(best: Candidate, search: Search) -> list[float]:
    """Of all steps of each phase, with what the first step waits and what hand-overs cost."""
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
