"""The part of an inventory that one run is planned for (placement.nodes, placement.cpus), where runs share a cluster.

Which nodes of a kind a run gets is Ray's choice, so a slice has what each of them has: the memory of the smallest.
"""

from __future__ import annotations

from dataclasses import replace

from s2l_ray.config import PlacementConfig
from s2l_ray.errors import PlacementError
from s2l_ray.placement.inventory import GB, Inventory, NodeGroup, NodeSpec, cpus_text


def slice_of(inventory: Inventory, placement: PlacementConfig) -> Inventory:
    """The nodes that a run is planned for.

    Returns:
        placement.nodes equal nodes, or one node of placement.cpus CPUs without GPUs, or else the inventory as it is.

    Raises:
        PlacementError: there is less than the key asks for; the message says what there is.
    """
    if placement.nodes is not None:
        return _with(inventory, _equal_nodes(inventory, placement.nodes))
    if placement.cpus is not None:
        return _with(inventory, _part_of_a_node(inventory, placement.cpus))
    return inventory


def _with(inventory: Inventory, node: NodeGroup) -> Inventory:
    return Inventory(nodes=(node,), efficiency=inventory.efficiency, fixed=inventory.fixed)


def _equal_nodes(inventory: Inventory, wanted: int) -> NodeGroup:
    """So many nodes of the kind with the most GPUs, then CPUs, of which there are so many."""
    kinds: dict[NodeSpec, list[NodeGroup]] = {}
    for group in inventory.nodes:
        kinds.setdefault(_kind(group.spec()), []).append(group)
    enough = {kind: groups for kind, groups in kinds.items() if sum(group.count for group in groups) >= wanted}
    if not enough:
        raise PlacementError(
            f"placement.nodes is {wanted}, but there are no {wanted} nodes that are alike: the cluster has "
            f"{inventory.describe()}. Lower placement.nodes, or leave it out to plan for the whole cluster"
        )
    groups = enough[max(enough, key=lambda kind: (kind.gpus, kind.cpus))]
    memory = min(group.spec().memory_bytes for group in groups)
    return groups[0].model_copy(update={"count": wanted, "memory_gb": memory / GB})


def _kind(spec: NodeSpec) -> NodeSpec:
    """What nodes that are alike have in common: all but memory, of which Ray finds a little more or less on each."""
    return replace(spec, memory_bytes=0, gpu_memory_bytes=spec.gpu_memory_bytes if spec.real_gpus else 0)


def _part_of_a_node(inventory: Inventory, cpus: float) -> NodeGroup:
    """A node of so many CPUs, as part of a node that has no GPUs, if one has so many CPUs; else of any that has."""
    large = [group for group in inventory.nodes if group.spec().cpus >= cpus]
    if not large:
        most = cpus_text(max(spec.cpus for spec in inventory.specs))
        raise PlacementError(
            f"placement.cpus is {cpus:g}, but the largest node has {most}: the cluster has {inventory.describe()}. "
            "Lower placement.cpus, or leave it out to plan for the whole cluster"
        )
    alone = [group for group in large if group.gpus == 0] or large
    memory = min(group.spec().memory_bytes * cpus / group.spec().cpus for group in alone)
    given = {"count": 1, "cpus": cpus, "memory_gb": memory / GB}
    first = alone[0]
    return NodeGroup(gpus=0, **given) if first.gpus else first.model_copy(update=given)
