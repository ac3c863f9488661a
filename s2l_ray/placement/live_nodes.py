"""What nodes Ray has, and whether they are those that a plan was made for."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.config import Config
from s2l_ray.errors import PlacementError
from s2l_ray.machine.cuda_driver import first_gpu_bytes
from s2l_ray.placement.fixed_nodes import differences
from s2l_ray.placement.gpu_types import LOGICAL, canonical_name
from s2l_ray.placement.inventory import GB, Inventory, load_inventory
from s2l_ray.placement.slicing import slice_of

PROBE_TIMEOUT_S = 300.0
"""For a process to start on every node or bundle, beside other work."""
REPORT_EVERY_S = 30.0
POLL_S = 0.5


def nodes_to_plan_for(config: Config, on_wait: Callable[[str], None] = lambda message: None) -> Inventory:
    """The nodes of placement.inventory, else those that Ray has; of them the part that placement.nodes or .cpus names.

    Args:
        on_wait: told every 30 s that planned nodes are being waited for.

    Raises:
        PlacementError: the inventory cannot be read, its nodes are `fixed` and Ray has others, or there is less than
            placement.nodes or placement.cpus asks for.
    """
    if config.placement.inventory is None:
        return slice_of(live_inventory(), config.placement)
    planned = load_inventory(config.placement.inventory)
    if planned.fixed:
        _wait_for_nodes(planned, config.cluster.start_timeout_s, on_wait)
    return slice_of(planned, config.placement)


def _wait_for_nodes(planned: Inventory, timeout_s: float, on_wait: Callable[[str], None]) -> None:
    """Wait until there are as many nodes as were planned for, and refuse them if they differ."""
    wanted, start = len(planned.specs), time.monotonic()
    reported = start
    while (there := len(_useful_nodes())) < wanted and time.monotonic() - start < timeout_s:
        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            on_wait(f"waited {reported - start:.0f} of {timeout_s:.0f} s for {wanted} nodes; {there} are there")
        time.sleep(POLL_S)
    if said := differences(planned, live_inventory()):
        raise PlacementError(
            f"the cluster's nodes are not those that were planned for ({planned.describe()}): {'; '.join(said)}. Give "
            "the cluster the planned nodes, or plan for the others (s2l plan --emit)"
        )


def live_inventory() -> Inventory:
    """The nodes that Ray has now, in the order of their addresses; those without CPUs and GPUs hold nothing.

    Ray knows how many GPUs a node has; nvidia-smi and CUDA's driver say what they are, on one node of each kind. GPUs
    of a node without nvidia-smi are logical ones.

    Raises:
        PlacementError: a node did not say what its GPUs are.
    """
    nodes = _useful_nodes()
    nodes.sort(key=lambda node: (int(address_of(node)), node["NodeID"]))
    models: dict[tuple[int | str, ...], dict[str, Any]] = {}
    rows = []
    for node in nodes:
        resources = node["Resources"]
        gpus = int(resources.get("GPU", 0))
        row = {"gpus": gpus, "cpus": max(resources.get("CPU", 0.0), 1e-3), "memory_gb": resources["memory"] / GB}
        if gpus:
            kind = (gpus, *sorted(name for name in resources if name.startswith("accelerator_type:")))
            models[kind] = models.get(kind) or _gpu_model(node["NodeID"])
            row |= models[kind]
        rows.append(row)
    return Inventory.of(rows)


def _useful_nodes() -> list[dict[str, Any]]:
    """The nodes that live, without those that can hold no bundle, as a head that was started with --num-cpus=0."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    useful = [node for node in alive if node["Resources"].get("CPU") or node["Resources"].get("GPU")]
    return useful or alive


@cache
def _gpu_model(node: str) -> dict[str, Any]:
    """What `NodeGroup` says of GPUs, by the node's id. Remembered: a study plans every trial."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        found = ray.get(_ask_of_gpu.options(scheduling_strategy=strategy).remote(), timeout=PROBE_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise PlacementError(
            f"node {node} did not say what its GPUs are: {error}. Describe the nodes in a file instead "
            "(placement.inventory)"
        ) from error
    if found is None:
        return {"gpu": LOGICAL}
    name, memory_bytes, capability = found
    known = {"gpu_memory_gb": memory_bytes / GB, "compute_capability": capability}
    try:
        return {"gpu": canonical_name(name), **known}
    except PlacementError:  # a card without known rates: those of the one nearest in memory stand in
        return known


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]  # Ray has no types
def _ask_of_gpu() -> tuple[str, int, float] | None:
    """Name, bytes by CUDA and compute capability of this node's first GPU; None without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader,nounits"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()[0]
    name, capability = first.rsplit(",", 1)
    return name.strip(), first_gpu_bytes(), float(capability)


def address_of(node: dict[str, Any]) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of a node that `ray.nodes` lists."""
    return ipaddress.ip_address(node["NodeManagerAddress"])
