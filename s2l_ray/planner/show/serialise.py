"""A plan as JSON, for programs. Bytes, seconds and FLOPs are numbers in exactly these units.

models              {"learner": ..., "explorer": ...}: directory, or ORG/NAME@COMMIT of the Hub
fits                bool; false: nothing fits, see problems
problems            [str]
mode                name of the placement mode (`kinds.PlacementModeName`); null when nothing fits
device              "gpu" | "cpu" | null
ranks               trainer ranks
tensor_parallel     {"learner": n, "explorer": n}
dtype               "bfloat16" | "float32"; dtype_reason says why
run_seconds         predicted, of all steps; null when nothing fits
phases              in the order of the steps:
  name              "explore" | "mix" | "on-policy"
  steps             how many; from first_step to last_step
  first_step, last_step
  step_seconds      predicted, mean of the phase's steps
  seconds           {"explore", "learner_generate", "update", "weight_sync", "sleep_wake", "verify": seconds of an
                    average step, each by itself; they overlap, so their sum is more than step_seconds}
  utilisation       {"trainer", "learner", "explorer", "all": share of the step in which the role's devices work}
  explorer_flops, learner_flops   of all rollouts of the phase
  gpus              every device: node, gpu (null: the node's CPU memory), capacity_bytes, used_bytes,
                    ledger {item: bytes}, which sums to used_bytes, and roles ["trainer:0", "learner:1/0", ...]
gpus                every device, at its fullest: node, gpu, capacity_bytes, used_bytes, ledger, worst_phase, and
                    roles {phase: ["trainer:0", ...]}
bundles             of the placement group: node, gpus, resources
slots               per phase of the layout: name, first_step, last_step, slots [role, index, bundle, devices, share; of
                    engines also kv_cache_bytes and transfer]
sleep               engines sleep while the trainer ranks on their devices work
replicas            groups of trainer ranks that hold a copy of the model each; 1 when nothing fits
recomputed_layers   of the trainer, where the plan says how many; else null
hand_overs          step (the first after it), ends and begins [role, index, bundle, devices], bundles
weight_sync         bytes, seconds, transfers {way: engines}; null when nothing fits
saving              explorer_flops, learner_flops, grpo_flops, saved (share of GRPO's rollout FLOPs); or null
notes               [str]
alternatives        best first: description, mode, fits, run_seconds, reason
simulation          with --simulate: constants (whose), run_seconds, not_simulated [str], and steps [step, phase,
                    start, seconds, spans]
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from s2l_ray.placement.plan import DeviceLoad, EngineSlot, Layout, PhasePlan, Plan, Saving, Slot
from s2l_ray.planner.show.grouping import HandOver, hand_overs

if TYPE_CHECKING:
    from s2l_ray.config import ModelsConfig
    from s2l_ray.planner.simulate.simulated_run import Simulation


def plan_json(plan: Plan, models: ModelsConfig, simulated: tuple[str, Simulation] | None = None) -> str:
    """One line of JSON: the plan for these models, perhaps with a simulation and whose constants it has."""
    document = {"models": {"learner": models.learner, "explorer": models.explorer}, **plan_document(plan)}
    if simulated:
        document["simulation"] = _simulation(*simulated)
    # Without indent: with it, json falls back to an encoder that takes seconds for thousands of GPUs.
    return json.dumps(document)


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan in plain dictionaries, as the module documents them."""
    layout = plan.layout
    return {
        "fits": plan.fits,
        "problems": list(plan.problems),
        "mode": plan.mode,
        "device": layout.device if layout else None,
        "ranks": plan.ranks,
        "tensor_parallel": dict(plan.tensor_parallel),
        "dtype": plan.dtype and plan.dtype.dtype,
        "dtype_reason": plan.dtype and plan.dtype.reason,
        "run_seconds": plan.run_seconds,
        "phases": [_phase(phase) for phase in plan.phases],
        "gpus": _worst(plan.phases),
        **_layout(layout),
        "weight_sync": {**vars(plan.weight_sync)} if plan.weight_sync else None,
        "saving": _saving(plan.saving) if plan.saving else None,
        "notes": list(plan.notes),
        "alternatives": [{**vars(alternative)} for alternative in plan.alternatives],
    }


def _simulation(constants: str, found: Simulation) -> dict[str, Any]:
    steps = [{**vars(step)} for step in found.steps]
    return {
        "constants": constants,
        "run_seconds": found.run_seconds,
        "not_simulated": list(found.left_out),
        "steps": steps,
    }


def _phase(phase: PhasePlan) -> dict[str, Any]:
    return {**vars(phase), "gpus": [_load(load) | {"roles": list(load.roles)} for load in phase.gpus]}


def _load(load: DeviceLoad) -> dict[str, Any]:
    return {
        "node": load.node,
        "gpu": load.gpu,
        "capacity_bytes": load.capacity_bytes,
        "used_bytes": load.used_bytes,
        "ledger": load.ledger,
    }


def _worst(phases: tuple[PhasePlan, ...]) -> list[dict[str, Any]]:
    fullest: dict[tuple[int, int | None], tuple[str, DeviceLoad]] = {}
    roles: dict[tuple[int, int | None], dict[str, list[str]]] = {}
    for phase in phases:
        for load in phase.gpus:
            place = (load.node, load.gpu)
            if place not in fullest or load.used_bytes > fullest[place][1].used_bytes:
                fullest[place] = (phase.name, load)
            known = roles.setdefault(place, {}).setdefault(phase.name, [])
            known.extend(role for role in load.roles if role not in known)
    return [_load(load) | {"worst_phase": name, "roles": roles[place]} for place, (name, load) in fullest.items()]


def _layout(layout: Layout | None) -> dict[str, Any]:
    if layout is None:
        return {"bundles": [], "slots": [], "sleep": False, "replicas": 1, "recomputed_layers": None, "hand_overs": []}
    return {
        "bundles": [{"node": b.node, "gpus": list(b.gpus), "resources": b.resources} for b in layout.bundles],
        "slots": [{**vars(phase), "slots": [_slot(slot) for slot in phase.slots]} for phase in layout.phases],
        "sleep": layout.sleep,
        "replicas": layout.replicas,
        "recomputed_layers": layout.recomputed_layers,
        "hand_overs": [_hand_over(change) for change in hand_overs(layout)],
    }


def _slot(slot: Slot) -> dict[str, Any]:
    return {"role": slot.role, **vars(slot)}


def _hand_over(change: HandOver) -> dict[str, Any]:
    return {
        "step": change.step,
        "ends": [_place(slot) for slot in change.ends],
        "begins": [_place(slot) for slot in change.begins],
        "bundles": list(change.bundles),
    }


def _place(slot: EngineSlot) -> dict[str, Any]:
    return {"role": slot.role, "index": slot.index, "bundle": slot.bundle, "devices": list(slot.devices)}


def _saving(saving: Saving) -> dict[str, float]:
    return {**vars(saving), "saved": saving.saved}
