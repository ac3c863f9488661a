"""The nodes and their rates: from a YAML file, or from records such as Ray's.

    nodes:
      - {count: 2, gpus: 8, gpu: H100-80GB, cpus: 192, memory_gb: 2000}
      - {count: 1, gpus: 4, gpu_memory_gb: 24}
    efficiency: {train: 0.45}

A GB is 10**9 bytes here, as on data sheets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from s2l_ray.config.problems import problems_of
from s2l_ray.config.section import PositiveFloat, Section
from s2l_ray.config.shipped import INVENTORIES
from s2l_ray.config.text import NOT_YAML, listed, read_documents, yaml_problem
from s2l_ray.errors import PlacementError
from s2l_ray.placement.gpu_types import FIRST_WITH_BFLOAT16, GPU_TYPES, LOGICAL, GpuType, canonical_name, like_memory
from s2l_ray.placement.manifest_nodes import nodes_of_manifest, ray_object

GB = 10**9
CPU_GFLOPS = 50.0
"""10**9 FLOP/s of a core in matrix products; `s2l plan --calibrate` measures yours."""
CPU_MEMORY_GB_S = 10.0
"""A core's part of the memory bandwidth."""
GLOO_GB_S = 0.4
"""Rate between processes of one machine, as a 30 MB broadcast was measured."""

MOST_NODES, MOST_GPUS, MOST_CPUS, MOST_GB = 10_000, 1024, 100_000, 1e6
"""In a group, and in a node: what is more is a slip, over which a plan would take for ever."""
OF_GPUS = ("gpu", "gpu_memory_gb", "gpu_tflops", "hbm_gb_s", "pcie_gb_s", "compute_capability")
"""Keys of a node that say something of its GPUs."""

Share = Annotated[float, Field(gt=0, le=1)]


class Efficiency(Section):
    """Shares of the data sheet's rates that are reached, and fixed costs.

    The defaults are round figures of what people report for dense models of 1 to 30 billion parameters with FSDP2 and
    vLLM; calibrate with a run of yours where it matters.
    """

    train: Share = 0.5
    """Share of the FLOP rate in forward and backward with packed rows; recomputation counts as work, so with gradient
    checkpointing the usual MFU (6 FLOPs per parameter and token) is three quarters of this."""
    prefill: Share = 0.5
    """Share of the FLOP rate while an engine reads prompts."""
    decode: Share = 0.7
    """Share of the memory bandwidth while an engine samples."""
    batch_invariant: Share = 0.6
    """Share of an engine's speed on GPUs that is left in vLLM's batch-invariant mode (engines.*.batch_invariant). Not
    measured here: Thinking Machines Lab report 42 s instead of 26 s for 1,000 sequences of Qwen3-8B on one GPU
    ("Defeating Nondeterminism in LLM Inference", 2025)."""
    link: Share = 0.7
    """Share of a link's rate in collectives."""
    decode_step_s: Annotated[float, Field(ge=0)] = 0.002
    """Seconds of each token step of an engine, beside the GPU's work: scheduling, sampling, detokenising."""
    collective_s: Annotated[float, Field(ge=0)] = 2e-5
    """Start of one collective."""
    sleep_wake_s: Annotated[float, Field(ge=0)] = 1.0
    """One cycle of an engine's sleep and wake, beside moving weights over PCIe."""
    weight_sync_s: Annotated[float, Field(ge=0)] = 0.5
    """Pausing and resuming engines around a weight sync."""
    engine_start_s: Annotated[float, Field(ge=0)] = 90.0
    """Start of an engine that is handed a bundle: process, imports, memory profile, compilation, graph capture."""


class NodeGroup(Section):
    """Equal nodes."""

    count: Annotated[int, Field(gt=0, le=MOST_NODES)] = 1
    gpus: Annotated[int, Field(ge=0, le=MOST_GPUS)]
    """Per node; 0 for a CPU node."""
    gpu: str | None = None
    """A known name (s2l_ray/placement/gpu_types.py), which fills in what is not given below, or `logical`."""
    gpu_memory_gb: PositiveFloat | None = None
    """Per GPU. Without `gpu` enough by itself: rates that are not given are those of the known GPU nearest to it."""
    gpu_tflops: PositiveFloat | None = None
    """Dense bfloat16, 10**12 FLOP/s per GPU; float32 for GPUs below compute capability 8.0, which have no bfloat16."""
    hbm_gb_s: PositiveFloat | None = None
    """Memory bandwidth per GPU. Rates are in 10**9 bytes/s."""
    intra_node_gb_s: PositiveFloat | None = None
    """Rate of each GPU to the others of its node, one way; on CPU nodes between processes."""
    inter_node_gb_s: PositiveFloat | None = None
    """Rate of the whole node to others, all network cards together, one way."""
    pcie_gb_s: PositiveFloat | None = None
    """Rate of each GPU to the host's memory, one way."""
    compute_capability: PositiveFloat | None = None
    """NVIDIA's, such as 7.5; GPUs below 8.0 have no bfloat16. Default: 8.0 or more."""
    cpus: Annotated[float, Field(gt=0, le=MOST_CPUS)] | None = None
    """Default: 16 per GPU; must be given without GPUs."""
    memory_gb: Annotated[float, Field(gt=0, le=MOST_GB)] | None = None
    """Memory of the host; default: 128 per GPU, without GPUs 4 per CPU."""

    @model_validator(mode="after")
    def _complete(self) -> NodeGroup:
        if self.gpus == 0:
            given = [k for k in OF_GPUS if getattr(self, k)]
            if given:
                raise ValueError(f"{given[0]} is given, but gpus is 0")
            if self.cpus is None:
                raise ValueError("a node without GPUs needs cpus")
        elif self.gpu is None and self.gpu_memory_gb is None:
            raise ValueError(f"gpu_memory_gb is missing; give it, or gpu with one of: {', '.join(GPU_TYPES)}")
        else:
            self._known_gpu()
        return self

    @property
    def emulated(self) -> bool:
        """Whether actors run on CPUs here."""
        return self.gpus == 0 or (self.gpu or "").lower() == LOGICAL

    @property
    def assumed(self) -> str | None:
        """The known GPU whose rates stand in, where neither a name nor all rates are given."""
        rates = (self.gpu_tflops, self.hbm_gb_s, self.intra_node_gb_s)
        if self.gpu is not None or self.gpu_memory_gb is None or self.emulated or None not in rates:
            return None
        return like_memory(self.gpu_memory_gb)

    def _known_gpu(self) -> GpuType:
        """The known GPU that fills in the rates which are not given. For nodes with real GPUs.

        Raises:
            ValueError: gpu is not known, and not all that it stands for is given.
        """
        name = self.gpu
        if name is not None and name.lower() != LOGICAL:
            try:
                return GPU_TYPES[canonical_name(name)]
            except PlacementError as error:
                if None in (self.gpu_memory_gb, self.gpu_tflops, self.hbm_gb_s, self.intra_node_gb_s):
                    raise ValueError(str(error)) from None
        return GPU_TYPES[like_memory(self.gpu_memory_gb or 0.0)]

    def spec(self) -> NodeSpec:
        """One node of the group, with every default filled in."""
        cpus = self.cpus or 16.0 * self.gpus
        memory = self.memory_gb or (128.0 * self.gpus if self.gpus else 4.0 * cpus)
        if self.emulated:
            return self._emulated(cpus, memory)
        model = self._known_gpu()
        return NodeSpec(
            gpus=self.gpus,
            gpu=self.gpu or f"{self.gpu_memory_gb:g}GB",
            cpus=cpus,
            memory_bytes=int(memory * GB),
            gpu_memory_bytes=int((self.gpu_memory_gb or model.memory_gb) * GB),
            flops=(self.gpu_tflops or model.tflops) * 1e12,
            flops_float32=self._tflops_float32(model) * 1e12,
            hbm=(self.hbm_gb_s or model.hbm_gb_s) * 1e9,
            intra=(self.intra_node_gb_s or model.link_gb_s) * 1e9,
            inter=(self.inter_node_gb_s or model.network_gb_s * self.gpus) * 1e9,
            pcie=(self.pcie_gb_s or model.pcie_gb_s) * 1e9,
        )

    def _tflops_float32(self, model: GpuType) -> float:
        """As much slower than bfloat16 as on the known GPU; nothing here asks for TensorFloat-32."""
        given = self.gpu_tflops or model.tflops
        old = self.compute_capability and self.compute_capability < FIRST_WITH_BFLOAT16
        return given if old and self.gpu_tflops else given * model.float32_tflops / model.tflops

    def _emulated(self, cpus: float, memory: float) -> NodeSpec:
        """Rates of a CPU node; of one CPU each, where actors are counted by CPUs or by logical GPUs."""
        return NodeSpec(
            gpus=self.gpus,
            gpu=LOGICAL if self.gpus else None,
            cpus=cpus,
            memory_bytes=int(memory * GB),
            gpu_memory_bytes=int((self.gpu_memory_gb or memory / max(1, self.gpus)) * GB),
            flops=(self.gpu_tflops or CPU_GFLOPS / 1e3) * 1e12,
            flops_float32=(self.gpu_tflops or CPU_GFLOPS / 1e3) * 1e12,
            hbm=(self.hbm_gb_s or CPU_MEMORY_GB_S) * 1e9,
            intra=(self.intra_node_gb_s or GLOO_GB_S) * 1e9,
            inter=(self.inter_node_gb_s or GLOO_GB_S) * 1e9,
            pcie=(self.pcie_gb_s or CPU_MEMORY_GB_S) * 1e9,
        )


@dataclass(frozen=True)
class NodeSpec:
    """One node, complete. Bytes, bytes/s, FLOP/s."""

    gpus: int
    gpu: str | None
    """Name of its GPUs; None without."""
    cpus: float
    memory_bytes: int
    gpu_memory_bytes: int
    flops: float
    """FLOP/s of one GPU in bfloat16; on a node without (real) GPUs, of one CPU."""
    flops_float32: float
    """In float32."""
    hbm: float
    """Memory bandwidth, of the same."""
    intra: float
    """One way, between two GPUs or processes of the node."""
    inter: float
    """One way, of the whole node to the others."""
    pcie: float

    @property
    def real_gpus(self) -> bool:
        """Whether there are GPUs that are not logical ones."""
        return self.gpus > 0 and self.gpu != LOGICAL

    def without_gpus(self) -> NodeSpec:
        """Its CPUs alone."""
        return NodeGroup(gpus=0, cpus=self.cpus, memory_gb=self.memory_bytes / GB).spec()


class Inventory(Section):
    """All nodes of a cluster."""

    nodes: Annotated[tuple[NodeGroup, ...], Field(min_length=1)]
    efficiency: Efficiency = Efficiency()
    fixed: bool = False
    """The cluster has these nodes and gets no others: a run refuses to start on any that differ. Without it the nodes
    may be yet to come, with an autoscaler."""

    @classmethod
    def of(cls, nodes: Iterable[Mapping[str, Any]], *, efficiency: Mapping[str, Any] | None = None) -> Inventory:
        """An inventory from records with the keys of the file's `nodes`, for example one per live Ray node.

        Raises:
            PlacementError: a record is incomplete or impossible.
        """
        return _parse({"nodes": list(nodes), "efficiency": dict(efficiency or {})}, "nodes of the cluster")

    @cached_property
    def specs(self) -> tuple[NodeSpec, ...]:
        """Every node, in the order of the file; positions are the node numbers of plans."""
        return tuple(spec for group in self.nodes for spec in [group.spec()] * group.count)

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(group.count * group.gpus for group in self.nodes)

    def describe(self) -> str:
        """Such as `2 nodes of 8 x H100-80GB, 1 node of 16 CPUs`."""
        parts = []
        for group in self.nodes:
            spec = group.spec()
            has = f"{spec.gpus} x {spec.gpu}" if spec.gpus else cpus_text(spec.cpus)
            parts.append(f"{group.count} node{'s' * (group.count > 1)} of {has}")
        return ", ".join(parts)


def cpus_text(cpus: float) -> str:
    """Such as `1 CPU` or `0.5 CPUs`."""
    return f"{cpus:g} CPU{'s' * (cpus != 1)}"


def load_inventory(path: str | Path) -> Inventory:
    """Read an inventory file.

    Args:
        path: the file, or the name of a shipped inventory such as 8xH100; a manifest of `s2l plan --emit` is one too.

    Raises:
        PlacementError: the file is missing or malformed, or a node incomplete or impossible; names file and key.
    """
    path = INVENTORIES.find(path)
    try:
        documents = read_documents(path)
    except FileNotFoundError:
        raise PlacementError(f"inventory {path} does not exist; {INVENTORIES.hint(path)}") from None
    except OSError as error:
        raise PlacementError(f"inventory {path} cannot be read: {error.strerror}") from None
    except NOT_YAML as error:
        raise PlacementError(f"inventory {path} is not valid YAML: {yaml_problem(error)}") from None
    if ray_object(documents):
        return _parse(nodes_of_manifest(documents, f"inventory {path}"), f"inventory {path}")
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise PlacementError(f"inventory {path} must be a mapping with the key nodes")
    return _parse(documents[0], f"inventory {path}")


def _parse(values: dict[str, Any], where: str) -> Inventory:
    try:
        return Inventory.model_validate(values)
    except ValidationError as error:
        raise PlacementError(f"{where}:\n  {listed(problems_of(error, Inventory))}") from None
