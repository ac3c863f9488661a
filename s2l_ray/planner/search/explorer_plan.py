"""Placement of explorer engines alone, on all devices that there are: what `s2l explore` carries out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2l_ray.errors import PlacementError
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory, NodeSpec
from s2l_ray.placement.plan import EngineSlot, Layout, PhaseSlots, PlannedBundle
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.search.cpu_plan import DEFAULT_KV_CACHE
from s2l_ray.planner.search.fitting import EngineNeed, Fit, Misfit, engine_need, fit, tensor_parallel_sizes

if TYPE_CHECKING:
    from s2l_ray.config import Config

GB = 10**9


def plan_explorers(config: Config, inventory: Inventory) -> Layout:
    """As many explorer engines as there is room for (on CPUs: 1), or engines.explorer.count of them.

    On GPUs each has as few of them as its model fits on, or engines.explorer.tensor_parallel.

    Raises:
        PlacementError: no engine, or fewer than are asked for, fit; the message says what is short.
        ModelError: the model's shape is not known.
    """
    config = choose_dtype(config, inventory).applied_to(config)
    on_gpus = config.placement.device != "cpu" and inventory.gpus > 0
    if config.placement.device == "gpu" and not on_gpus:
        raise PlacementError(f"placement.device is gpu, but there are none on {inventory.describe()}")
    bundles, slots = _on_gpus(config, inventory) if on_gpus else _on_cpus(config, inventory)
    asked = config.engines.explorer.count
    if not slots or (asked is not None and len(slots) < asked):
        raise PlacementError(
            f"there is room for {len(slots)} explorer engines on {inventory.describe()}, {asked or 1} needed; change "
            "engines.explorer.{count,tensor_parallel,cpus}, or add nodes"
        )
    phase = PhaseSlots("explore", 1, 1, tuple(slots))
    return Layout("separate", "gpu" if on_gpus else "cpu", tuple(bundles), (phase,), sleep=False)


def _on_cpus(config: Config, inventory: Inventory) -> tuple[list[PlannedBundle], list[EngineSlot]]:
    engine = config.engines.explorer
    need = _need(config, engine.tensor_parallel or 1, cuda=False)
    kv = need.pinned or max(need.least, DEFAULT_KV_CACHE)
    bundles: list[PlannedBundle] = []
    for node, spec in enumerate(inventory.specs):
        room = int(spec.cpus / engine.cpus + 1e-9)
        bundles += [PlannedBundle(node, (), {"CPU": engine.cpus})] * min(room, (engine.count or 1) - len(bundles))
    slots = [EngineSlot("explorer", n, n, (), engine.cpus, kv_cache_bytes=kv) for n in range(len(bundles))]
    return bundles, slots


def _on_gpus(config: Config, inventory: Inventory) -> tuple[list[PlannedBundle], list[EngineSlot]]:
    engine = config.engines.explorer
    bundles: list[PlannedBundle] = []
    slots: list[EngineSlot] = []
    misfit: Misfit | None = None
    for node, spec in enumerate(inventory.specs):
        found = _fitting(config, spec)
        if not isinstance(found, tuple):
            misfit = found or misfit
            continue
        size, kv = found
        engines = min(spec.gpus // size, int(spec.cpus / engine.cpus + 1e-9))
        for first in range(0, engines * size, size):
            if engine.count is None or len(slots) < engine.count:
                gpus = tuple(range(first, first + size))
                slots.append(
                    EngineSlot("explorer", len(slots), len(bundles), tuple(range(size)), 1.0, kv_cache_bytes=kv)
                )
                bundles.append(PlannedBundle(node, gpus, {"GPU": float(size), "CPU": engine.cpus}))
    if not slots and misfit is not None:
        raise PlacementError(
            f"the explorer does not fit on the GPUs of {inventory.describe()}: {misfit.short / GB:.1f} GB short of "
            f"{misfit.budget / GB:.1f} GB usable per GPU; lower engines.explorer.kv_cache_gb or max_num_seqs, raise "
            "engines.explorer.tensor_parallel, or use larger GPUs"
        )
    return bundles, slots


def _fitting(config: Config, spec: NodeSpec) -> tuple[int, int] | Misfit | None:
    """(devices of an engine, KV cache on each) on a node; or what the largest engine there is short of; None if the
    node has too few GPUs for any.
    """
    shape = ModelShape.load(config.models.explorer)
    pinned = config.engines.explorer.tensor_parallel
    sizes = (pinned,) if pinned else tensor_parallel_sizes(shape, spec.gpus if spec.real_gpus else min(1, spec.gpus))
    budget = int(spec.gpu_memory_bytes * (1 - config.placement.headroom))
    found = None
    for size in (n for n in sizes if n <= spec.gpus):
        found = fit(budget, None, [_need(config, size, cuda=spec.real_gpus)], sleep=False)
        if isinstance(found, Fit):
            return size, found.kv["explorer"]
    return found


def _need(config: Config, tensor_parallel: int, *, cuda: bool) -> EngineNeed:
    return engine_need(ModelShape.load(config.models.explorer), config, "explorer", tensor_parallel, cuda=cuda)
