"""Data-sheet facts of the GPUs that an inventory may name.

Memory is the total that torch reports for the device. FLOP rates are bfloat16 on tensor cores without sparsity, and
float32 outside of them; links are one way. Sources: NVIDIA's data sheets of H100 and H200 (SXM and PCIe), DGX B200,
A100 (SXM), L40S, L4, A10G (AWS g5; the A10 with lower clocks), GeForce RTX 4090 (Ada whitepaper, FP32 accumulate). The
network is that of the usual node: DGX H100 and B200 have 400 Gb/s per GPU, DGX A100 200 Gb/s, cloud nodes of PCIe cards
about 100 Gb/s for eight.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from s2l_ray.errors import PlacementError


@dataclass(frozen=True)
class GpuType:
    """One card."""

    memory_gb: float
    """10**9 bytes."""
    tflops: float
    """Dense bfloat16 matrix products, 10**12 FLOP/s."""
    float32_tflops: float
    """Dense float32, without TensorFloat-32, 10**12 FLOP/s."""
    hbm_gb_s: float
    """Bandwidth of its own memory, 10**9 bytes/s."""
    link_gb_s: float
    """To another GPU of the node, one way: NVLink, or PCIe where there is none."""
    pcie_gb_s: float
    """To the host's memory, one way."""
    network_gb_s: float
    """Its part of the node's network, one way."""


GPU_TYPES: dict[str, GpuType] = {
    "B200": GpuType(191.4, 2250, 80, 8000, 900, 64, 50),
    "H200": GpuType(150.1, 989, 67, 4800, 450, 64, 50),
    "H100-80GB": GpuType(84.9, 989, 67, 3350, 450, 64, 50),
    "H100-PCIE": GpuType(84.9, 756, 51, 2000, 64, 64, 25),
    "A100-80GB": GpuType(84.9, 312, 19.5, 2039, 300, 32, 25),
    "A100-40GB": GpuType(42.3, 312, 19.5, 1555, 300, 32, 25),
    "L40S": GpuType(47.7, 362, 91.6, 864, 32, 32, 1.5625),
    "L4": GpuType(23.6, 121, 30.3, 300, 32, 32, 1.5625),
    "A10G": GpuType(23.6, 70, 31.2, 600, 32, 32, 1.5625),
    "RTX-4090": GpuType(25.2, 165, 82.6, 1008, 32, 32, 1.5625),
}

FIRST_WITH_BFLOAT16 = 8.0
"""Compute capability of NVIDIA's Ampere; vLLM refuses bfloat16 on older GPUs."""
LOGICAL = "logical"
"""A GPU that Ray only counts (`ray start --num-gpus`), on a machine that has none: actors run on CPUs, weights go by
gloo, and engines cannot give memory back."""

# Ray's accelerator types. A bare A100 may have either size, and a plan must hold on the smaller.
_ALIASES = {"H100": "H100-80GB", "A100-80G": "A100-80GB", "A100-40G": "A100-40GB", "A100": "A100-40GB"}


def like_memory(memory_gb: float) -> str:
    """The known GPU whose memory is nearest; of several the slowest. For a GPU of which only the memory is known."""
    return min(GPU_TYPES, key=lambda name: (abs(GPU_TYPES[name].memory_gb - memory_gb), GPU_TYPES[name].tflops))


def canonical_name(name: str) -> str:
    """The key in GPU_TYPES of a GPU's name.

    Args:
        name: such a key, Ray's accelerator type (`H100`) or torch's device name (`NVIDIA H100 80GB HBM3`,
            `NVIDIA A100-SXM4-40GB`, `NVIDIA GeForce RTX 4090`).

    Raises:
        PlacementError: not known; the known ones are listed.
    """
    if name.lower() == LOGICAL:
        return LOGICAL
    upper = re.sub(r"[ _]+", "-", re.sub(r"NVIDIA|GEFORCE|TESLA", "", name.upper()).strip())
    known = {key.upper(): key for key in GPU_TYPES} | _ALIASES
    if upper in known:
        return known[upper]
    parts = set(upper.split("-"))
    if parts & {"H100", "A100"}:
        card = "H100" if "H100" in parts else "A100"
        if card == "H100" and "PCIE" in parts:
            return "H100-PCIE"
        return known.get(f"{card}-80GB" if "80GB" in parts else card, card)
    for key in ("B200", "H200", "L40S", "L4", "A10G"):
        if key in parts:
            return key
    close = get_close_matches(upper, list(known), n=1)
    hint = f"did you mean {known[close[0]]}? " if close else ""
    raise PlacementError(
        f"gpu {name!r} is not known; {hint}known are {', '.join([*GPU_TYPES, LOGICAL])}. For another one give "
        "gpu_memory_gb, gpu_tflops, hbm_gb_s and intra_node_gb_s"
    )
