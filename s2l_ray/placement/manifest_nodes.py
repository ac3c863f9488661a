"""The nodes of an inventory, read back from the RayJob or RayCluster that was made for them.

Counts, GPUs, CPUs and memory are those of the manifest's worker groups, as somebody may have changed them. What no pod
says (kinds and rates of GPUs, efficiencies) is in the inventory that travels in the same file.
"""

from __future__ import annotations

from typing import Any

import yaml

from s2l_ray.errors import PlacementError
from s2l_ray.machine.reading import misread

KINDS = ("RayJob", "RayCluster")
INVENTORY_KEY = "inventory.yaml"
"""Key of the ConfigMap's data that is the inventory."""
UNITS = {
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
    "m": 1e-3, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
}  # fmt: skip
RayObject = dict[str, Any]


def ray_object(documents: list[Any]) -> RayObject | None:
    """The RayJob or RayCluster among the documents of a YAML file; None if there is none."""
    return next((d for d in documents if isinstance(d, dict) and d.get("kind") in KINDS), None)


def nodes_of_manifest(documents: list[Any], where: str) -> dict[str, Any]:
    """The content of an inventory file, from a manifest's documents that have a RayJob or RayCluster among them.

    Raises:
        PlacementError: the manifest has no worker groups, or one without limits; `where` names it.
    """
    found = ray_object(documents)
    try:
        cluster = found["spec"]["rayClusterSpec"] if found["kind"] == "RayJob" else found["spec"]  # type: ignore[index]
        groups = [_node(group) for group in cluster["workerGroupSpecs"]]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise PlacementError(f"{where}: no nodes in this manifest: {misread(error)}") from None
    carried = _carried(documents)
    kinds = carried.get("nodes", [])
    if len(kinds) == len(groups):
        groups = [kind | group for kind, group in zip(kinds, groups, strict=True)]
    return carried | {"nodes": groups}


def _carried(documents: list[Any]) -> dict[str, Any]:
    for document in documents:
        if isinstance(document, dict) and INVENTORY_KEY in (document.get("data") or {}):
            return dict(yaml.safe_load(document["data"][INVENTORY_KEY]))
    return {}


def _node(group: dict[str, Any]) -> dict[str, Any]:
    """The record of a worker group's nodes, as the operator starts Ray on them."""
    container = group["template"]["spec"]["containers"][0]
    limits, params = container["resources"]["limits"], group.get("rayStartParams") or {}
    gpus = [amount(limits[name]) for name in limits if name.endswith("gpu")]
    return {
        "count": int(group.get("replicas", 0)),
        "gpus": int(params.get("num-gpus", sum(gpus))),
        "cpus": float(params.get("num-cpus", -(-amount(limits["cpu"]) // 1))),
        "memory_gb": amount(limits["memory"]) / UNITS["G"],
    }


def amount(text: str | float) -> float:
    """The number that a Kubernetes quantity stands for: bytes, cores or pieces.

    Raises:
        ValueError: it is no quantity.
    """
    written = str(text)
    for suffix, unit in UNITS.items():
        if written.endswith(suffix):
            return float(written.removesuffix(suffix)) * unit
    return float(written)
