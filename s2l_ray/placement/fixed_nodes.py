"""Whether a cluster's nodes are those that a plan was made for, and in what they differ."""

from __future__ import annotations

from collections import Counter
from functools import partial

from s2l_ray.errors import PlacementError
from s2l_ray.placement.gpu_types import canonical_name
from s2l_ray.placement.inventory import GB, Inventory, NodeSpec

MEMORY_TOLERANCE = 0.01
"""Ray on Kubernetes has the whole memory limit of a pod."""
GPU_MEMORY_TOLERANCE = 0.12
"""Between a data sheet's GB and what CUDA says."""


def differences(planned: Inventory, there: Inventory) -> list[str]:
    """In what nodes differ from planned ones: number, GPUs, CPUs, memory. Empty if they do not; order does not count.

    Nodes of one plan that are not there are compared with nodes that are there and not in the plan, one by one.
    """
    left = list(there.specs)
    missing = []
    for spec in planned.specs:
        match = next((found for found in left if not _differs(spec, found)), None)
        if match is None:
            missing.append(spec)
        else:
            left.remove(match)
    said = Counter(_compared(spec, found) for spec, found in _paired(missing, left))
    return [f"{count} times: {text}" if count > 1 else text for text, count in said.items()]


def _paired(missing: list[NodeSpec], left: list[NodeSpec]) -> list[tuple[NodeSpec | None, NodeSpec | None]]:
    """Each missing node beside the one that is most like it, as far as there are any."""
    pairs: list[tuple[NodeSpec | None, NodeSpec | None]] = []
    for spec in missing:
        likest = min(left, key=partial(_distance, spec), default=None)
        pairs.append((spec, likest))
        if likest is not None:
            left.remove(likest)
    return pairs + [(None, found) for found in left]


def _distance(planned: NodeSpec, found: NodeSpec) -> int:
    return len(_differs(planned, found))


def _compared(planned: NodeSpec | None, found: NodeSpec | None) -> str:
    if planned is None or found is None:
        node = planned or found
        said = "is missing" if planned else "is not in the plan"
        return f"a node of {_describe(node) if node else 'nothing'} {said}"
    return f"a node has {' and '.join(_differs(planned, found))}"


def _differs(planned: NodeSpec, found: NodeSpec) -> list[str]:
    """Such as ["4 CPUs instead of 2"]."""
    said = []
    if planned.gpus != found.gpus:
        said.append(f"{found.gpus} GPUs instead of {planned.gpus}")
    elif planned.gpus and not _same_gpu(planned, found):
        said.append(f"GPUs of kind {found.gpu} instead of {planned.gpu}")
    if planned.cpus != found.cpus:
        said.append(f"{found.cpus:g} CPUs instead of {planned.cpus:g}")
    if not _near(planned.memory_bytes, found.memory_bytes, MEMORY_TOLERANCE):
        said.append(f"{found.memory_bytes / GB:.4g} GB of memory instead of {planned.memory_bytes / GB:.4g}")
    return said


def _same_gpu(planned: NodeSpec, found: NodeSpec) -> bool:
    names = {_known(planned.gpu), _known(found.gpu)}
    if None in names:
        return _near(planned.gpu_memory_bytes, found.gpu_memory_bytes, GPU_MEMORY_TOLERANCE)
    return len(names) == 1


def _known(gpu: str | None) -> str | None:
    """The name under which this kind of GPU is known, if it is."""
    try:
        return canonical_name(gpu or "")
    except PlacementError:
        return None


def _near(planned: float, found: float, tolerance: float) -> bool:
    return abs(found - planned) <= tolerance * planned


def _describe(spec: NodeSpec) -> str:
    gpus = f"{spec.gpus} x {spec.gpu}, " if spec.gpus else ""
    return f"{gpus}{spec.cpus:g} CPUs, {spec.memory_bytes / GB:.4g} GB"
