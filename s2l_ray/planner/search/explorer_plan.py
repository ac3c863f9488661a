"""Placement of explorer engines alone, on all devices that there are: what `s2l explore` carries out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.config.placement_modes import SLEEPLESS
from s2l_ray.errors import PlacementError
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory, NodeSpec
from s2l_ray.placement.plan import EngineSlot, Layout, PhaseSlots, PlannedBundle
from s2l_ray.planner.search.cpu_plan import cpu_slot
from s2l_ray.planner.search.fitting import Fit, Misfit, engine_need, fit, tensor_parallel_sizes
from s2l_ray.planner.search.frame import Frame, make_frame

if TYPE_CHECKING:
    from s2l_ray.config import Config

GB = 10**9


def plan_explorers(config: Config, inventory: Inventory) -> Layout:
    """Place as many explorer engines as there is room for (on CPUs: 1), or engines.explorer.count of them.

    On GPUs each has as few of them as its model fits on, or engines.explorer.tensor_parallel.

    Raises:
        PlacementError: no engine, or fewer than are asked for, fit; the message says what is short.
        ModelError: the model's shape is not known.
    """
    frame = make_frame(choose_dtype(config, inventory).applied_to(config), inventory)
    bundles, slots = _on_cpus(frame) if frame.device == "cpu" else _on_gpus(frame)
    asked = config.engines.explorer.count
    if not slots or (asked is not None and len(slots) < asked):
        raise PlacementError(
            f"there is room for {len(slots)} explorer engines on {inventory.describe()}, {asked or 1} needed; change "
            "engines.explorer.{count,tensor_parallel,cpus}, or add nodes"
        )
    phase = PhaseSlots("explore", 1, 1, tuple(slots))
    return Layout(SLEEPLESS.name, frame.device, tuple(bundles), (phase,), sleep=False)


def _on_cpus(frame: Frame) -> tuple[list[PlannedBundle], list[EngineSlot]]:
    engine = frame.engine("explorer")
    bundles: list[PlannedBundle] = []
    for node, spec in enumerate(frame.inventory.specs):
        room = int(spec.cpus / engine.cpus + 1e-9)
        bundles += [PlannedBundle(node, (), {"CPU": engine.cpus})] * min(room, (engine.count or 1) - len(bundles))
    return bundles, [cpu_slot(frame, "explorer", number, number) for number in range(len(bundles))]


def _on_gpus(frame: Frame) -> tuple[list[PlannedBundle], list[EngineSlot]]:
    engine = frame.engine("explorer")
    bundles: list[PlannedBundle] = []
    slots: list[EngineSlot] = []
    misfit: Misfit | None = None
    for node, spec in enumerate(frame.inventory.specs):
        found = _fitting(frame, spec)
        if not isinstance(found, _Engine):
            misfit = found or misfit
            continue
        size = found.gpus
        engines = min(spec.gpus // size, int(spec.cpus / engine.cpus + 1e-9))
        for first in range(0, engines * size, size):
            if engine.count is None or len(slots) < engine.count:
                gpus = tuple(range(first, first + size))
                slots.append(
                    EngineSlot("explorer", len(slots), len(bundles), tuple(range(size)), 1.0, found.kv_cache_bytes)
                )
                bundles.append(PlannedBundle(node, gpus, {"GPU": float(size), "CPU": engine.cpus}))
    if not slots and misfit is not None:
        raise PlacementError(
            f"the explorer does not fit on the GPUs of {frame.inventory.describe()}: {misfit.short / GB:.1f} GB short "
            f"of {misfit.budget / GB:.1f} GB usable per GPU; lower engines.explorer.kv_cache_gb or max_num_seqs, raise "
            "engines.explorer.tensor_parallel, or use larger GPUs"
        )
    return bundles, slots


class _Engine(NamedTuple):
    """An engine that fits on a node."""

    gpus: int
    kv_cache_bytes: int
    """On each of its GPUs."""


def _fitting(frame: Frame, spec: NodeSpec) -> _Engine | Misfit | None:
    """The smallest engine that fits on a node; or what the largest one lacks; None if the node has too few GPUs."""
    shape, pinned = frame.explorer, frame.engine("explorer").tensor_parallel
    sizes = (pinned,) if pinned else tensor_parallel_sizes(shape, spec.gpus if spec.real_gpus else min(1, spec.gpus))
    budget = int(spec.gpu_memory_bytes * (1 - frame.config.placement.headroom))
    misfit = None
    for size in (n for n in sizes if n <= spec.gpus):
        need = engine_need(shape, frame.config, "explorer", size, cuda=spec.real_gpus, transfer=None)
        found = fit(budget, None, [need], sleep=False)
        if isinstance(found, Fit):
            return _Engine(size, found.kv["explorer"])
        misfit = found
    return misfit
