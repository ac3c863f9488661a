"""How long everything takes: a roofline model, each part a pure function. Seconds, bytes, FLOPs.

Every figure is work over the rate that bounds it. It ranks placements and is right to some tens of per cent; a run's
own times (`s2l plan --calibrate RUN`) are better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from s2l_ray.config.placement_modes import PlacementMode
from s2l_ray.placement.inventory import CPU_MEMORY_GB_S, Efficiency, NodeSpec
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.workload import Split, Workload

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

TAIL_BATCH = 0.25
"""While the longest responses finish alone, so much of the batch is still running on average."""


@dataclass(frozen=True)
class Rates:
    """The rates that one device reaches, efficiency included: FLOP/s, and bytes/s one way."""

    train: float
    prefill: float
    memory: float
    """Device memory, while an engine samples and in the optimizer."""
    batch_invariant: float
    """Share of an engine's speed that is left in batch-invariant mode."""
    intra: float
    inter: float
    """Between nodes, all network cards of a node together."""
    pcie: float
    host: float
    """Host memory, of an actor's threads."""
    decode_step_s: float
    collective_s: float
    sleep_wake_s: float
    weight_sync_s: float
    engine_start_s: float

    def of_engine(self, *, batch_invariant: bool) -> Rates:
        """The rates that an engine reaches which samples in this mode."""
        if not batch_invariant:
            return self
        left = self.batch_invariant
        return replace(
            self, prefill=self.prefill * left, memory=self.memory * left, decode_step_s=self.decode_step_s / left
        )

    def link(self, nodes: int) -> float:
        """Slowest link of a ring over `nodes` nodes, whose network cards all take part."""
        return self.intra if nodes <= 1 else min(self.intra, self.inter)


def rates(specs: list[NodeSpec], efficiency: Efficiency, *, float32: bool = False, threads: int = 1) -> Rates:
    """The rates of the slowest of some nodes, since a step waits for the slowest device.

    Args:
        float32: whether they compute in it, and not in bfloat16 (models.dtype).
        threads: CPU threads of an actor; counts where nodes have no real GPUs.
    """
    scale = [1 if spec.real_gpus else threads for spec in specs]
    of_one = [spec.flops_float32 if float32 else spec.flops for spec in specs]
    flops = min(rate * n for rate, n in zip(of_one, scale, strict=True))
    memory = min(spec.hbm * n for spec, n in zip(specs, scale, strict=True))
    return Rates(
        train=flops * efficiency.train,
        prefill=flops * efficiency.prefill,
        memory=memory * efficiency.decode,
        batch_invariant=efficiency.batch_invariant,
        intra=min(spec.intra for spec in specs) * efficiency.link,
        inter=min(spec.inter for spec in specs) * efficiency.link,
        pcie=min(spec.pcie for spec in specs) * efficiency.link,
        host=threads * CPU_MEMORY_GB_S * 1e9 * efficiency.decode,
        decode_step_s=efficiency.decode_step_s,
        collective_s=efficiency.collective_s,
        sleep_wake_s=efficiency.sleep_wake_s,
        weight_sync_s=efficiency.weight_sync_s,
        engine_start_s=efficiency.engine_start_s,
    )


# ---- links ----------------------------------------------------------------------------------------------------------


def gather_seconds(size: float, ranks: int, link: float) -> float:
    """Ring all-gather or reduce-scatter of `size` bytes in all: every rank passes on what it does not own."""
    return size * (ranks - 1) / ranks / link


def all_reduce_seconds(size: float, ranks: int, link: float, start_s: float) -> float:
    """Ring all-reduce of `size` bytes: a reduce-scatter and an all-gather. Nothing with one rank."""
    return 0.0 if ranks == 1 else start_s + 2 * gather_seconds(size, ranks, link)


# ---- sampling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampler:
    """One engine."""

    shape: ModelShape
    tensor_parallel: int
    kv_cache_bytes: int
    """KV cache on each device."""
    max_num_seqs: int
    dtype_bytes: int
    rates: Rates

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Bytes on each device; with more devices than key-value heads, heads are held more than once."""
        shape = self.shape
        return shape.kv_bytes_per_token(self.dtype_bytes) / min(self.tensor_parallel, shape.kv_heads)

    @cached_property
    def streamed_bytes(self) -> float:
        """Weights that every decode step reads, per device: all but an embedding that is only looked up."""
        shape = self.shape
        looked_up = 0 if shape.tied else shape.embedding_parameters
        return (shape.parameters - looked_up) * self.dtype_bytes / self.tensor_parallel


@dataclass(frozen=True)
class SamplingWork:
    """What the engines of one kind sample together in one step."""

    prompts: int
    rollouts: int
    """Rollouts of each prompt; they share its KV cache."""
    prompt_tokens: float
    response_tokens: float
    """Mean length; so is prompt_tokens."""
    max_tokens: int


def concurrency(engine: Sampler, work: SamplingWork) -> float:
    """Sequences that run at one time: as many as max_num_seqs and the KV cache allow.

    On average half of a response is in the cache, and each rollout's part of the shared prompt.
    """
    tokens = work.prompt_tokens / work.rollouts + work.response_tokens / 2
    return max(1.0, min(engine.max_num_seqs, engine.kv_cache_bytes / (engine.kv_bytes_per_token * tokens)))


def decode_step_seconds(engine: Sampler, batch: float, context: float) -> float:
    """Seconds of one token for each of `batch` sequences that have `context` tokens.

    Weights and KV cache are read once, unless the matrix products take longer; then come two all-reduces per layer and
    the engine's own overhead.
    """
    shape, rates, devices = engine.shape, engine.rates, engine.tensor_parallel
    read = (engine.streamed_bytes + batch * context * engine.kv_bytes_per_token) / rates.memory
    compute = shape.forward_flops(batch, context) / devices / rates.prefill
    hidden = batch * shape.hidden * engine.dtype_bytes
    reduce = all_reduce_seconds(hidden, devices, rates.intra, rates.collective_s)
    return max(read, compute) + 2 * shape.layers * reduce + rates.decode_step_s


def prefill_seconds(engine: Sampler, prompts: float, prompt_tokens: float) -> float:
    """Seconds of reading prompts, each once, however many rollouts share it."""
    flops = engine.shape.forward_flops(prompts * prompt_tokens, prompt_tokens / 2)
    return flops / engine.tensor_parallel / engine.rates.prefill


def generation_seconds(engine: Sampler, work: SamplingWork, engines: int) -> float:
    """All rollouts of one step on `engines` equal engines, prompts dealt out whole.

    Continuous batching: the batch is full until work runs out, then the longest responses finish in a smaller one.
    """
    if work.rollouts == 0:
        return 0.0
    prompts = math.ceil(work.prompts / engines)
    sequences = prompts * work.rollouts
    batch = min(concurrency(engine, work), sequences)
    full = decode_step_seconds(engine, batch, work.prompt_tokens + work.response_tokens / 2)
    last = decode_step_seconds(engine, TAIL_BATCH * batch, work.prompt_tokens + work.max_tokens)
    body = sequences / batch * work.response_tokens * full
    tail = (work.max_tokens - work.response_tokens) * min(last, full)
    return prefill_seconds(engine, prompts, work.prompt_tokens) + body + tail


def rollout_flops(shape: ModelShape, work: SamplingWork) -> float:
    """FLOPs of all rollouts of one step: prompts once, responses at their mean context."""
    prompts = shape.forward_flops(work.prompts * work.prompt_tokens, work.prompt_tokens / 2) if work.rollouts else 0.0
    tokens = work.prompts * work.rollouts * work.response_tokens
    return prompts + shape.forward_flops(tokens, work.prompt_tokens + work.response_tokens / 2)


# ---- training -------------------------------------------------------------------------------------------------------


def update_seconds(
    shape: ModelShape,
    work: Workload,
    split: Split,
    *,
    ranks: int,
    nodes: int,
    rates: Rates,
    dtype_bytes: int,
    replicas: int = 1,
    replica_nodes: int | None = None,
) -> float:
    """Seconds of all optimizer steps of one step.

    The FLOPs of the busiest rank or FSDP's traffic, whichever is slower (they overlap), and the optimizer.

    Groups go to ranks whole, so with fewer prompts in a mini-batch than ranks some ranks have nothing to do. Every
    micro-batch gathers the weights for forward and, unless they are kept, again for backward, and reduces float32
    gradients. With off-load each rank's float32 shard crosses PCIe for every gather, its gradients on the way back, and
    the optimizer runs on the host. With replicas layers are gathered and gradients reduced among the ranks of each, and
    once per optimizer step (with off-load in every micro-batch) the replicas add up their shards of the gradients.

    Args:
        ranks: of all replicas.
        nodes: that these span.
        replica_nodes: that the ranks of one replica span; default: `nodes`.
    """
    groups = math.ceil(work.mini_batch_prompts / ranks)
    mini_batches = -(-work.prompts // work.mini_batch_prompts)
    steps = work.optimizer_steps(split)
    tokens = mini_batches * groups * work.group_size * work.sequence_tokens
    compute = work.forwards(split) * shape.forward_flops(tokens, work.sequence_tokens / 2) / rates.train

    rows = steps * math.ceil(tokens / steps / max(work.micro_batch_tokens, work.sequence_tokens))
    gathers = work.gathers(split)
    link, sharing = rates.link(replica_nodes or nodes), ranks // replicas
    traffic = gathers * gather_seconds(shape.parameters * dtype_bytes, sharing, link)
    traffic += 0.0 if work.lora else gather_seconds(shape.parameters * 4, sharing, link)
    starts = 0.0 if sharing == 1 else (gathers + 1) * shape.layers * rates.collective_s
    shard = 0.0 if work.lora else 4 * shape.parameters / sharing
    sums = rows if work.offload else steps
    # All ranks of a node send their shards at one time, through the node's network cards.
    added = sums * all_reduce_seconds(sharing * shard, replicas, rates.link(nodes), shape.layers * rates.collective_s)
    pcie = (gathers - work.reference + 1) * shard / rates.pcie if work.offload else 0.0
    optimizer = steps * 8 * shard / (rates.host if work.offload else rates.memory)
    return max(compute, rows * (traffic + starts) + added, rows * pcie) + optimizer


# ---- weights --------------------------------------------------------------------------------------------------------


def weight_sync_bytes(shape: ModelShape, dtype_bytes: int) -> int:
    """Bytes of one version of the weights, tied ones once."""
    return shape.parameters * dtype_bytes


def weight_sync_seconds(
    shape: ModelShape, *, ranks: int, nodes: int, far: bool, rates: Rates, dtype_bytes: int
) -> float:
    """Gather every tensor over the ranks that share a copy, and broadcast it to engines on devices of their own.

    One after the other.

    Args:
        ranks: that share a copy.
        nodes: that these span.
        far: engines are on other nodes than the ranks; engines that share the ranks' devices are handed the gathered
            tensors in place, which costs the other part of the broadcast's time at most.
    """
    size = weight_sync_bytes(shape, dtype_bytes)
    tensors = shape.layers * len(shape.layer_tensors) + len(shape.root_tensors)
    gather = gather_seconds(size, ranks, rates.link(nodes))
    send = size / (min(rates.intra, rates.inter) if far else rates.intra)
    return gather + send + 2 * tensors * rates.collective_s + rates.weight_sync_s


def sleep_wake_seconds(explorer: Sampler | None, rates: Rates) -> float:
    """Seconds of one cycle of sleep and wake.

    The learner's weights are dropped and come back with the weight sync; the explorer's go to host memory and return.
    """
    moved = 0.0
    if explorer is not None:
        moved = 2 * explorer.shape.parameters * explorer.dtype_bytes / explorer.tensor_parallel / rates.pcie
    return rates.sleep_wake_s + moved


# ---- steps ----------------------------------------------------------------------------------------------------------


Seconds = TypeVar("Seconds", float, FloatArray)
"""Seconds of one step, or of many steps in an array."""


@dataclass(frozen=True)
class StepParts(Generic[Seconds]):
    """Seconds of the parts of a step, each as if nothing else went on."""

    explore: Seconds
    learner_generate: Seconds
    sleep_wake: Seconds
    update: Seconds
    weight_sync: Seconds


def step_seconds(mode: PlacementMode, parts: StepParts[Seconds], *, ahead: bool, stale: bool) -> Seconds:
    """Seconds of a step in the middle of a run.

    The trainer waits for the learner's samples. Explorer engines that sleep beside it sample in turn, too; those with
    devices of their own sample at the same time as the learner's, and with `ahead` (rollout.prefetch_steps) for coming
    steps while the rest of this one goes on.

    Args:
        parts: numbers or arrays; arrays are broadcast. Infinite parts make an infinite step.
        stale: rollout.max_staleness, for modes whose learner engines do not sleep: they sample the next step while the
            trainer works on this one; only the weight sync stops them both.
    """
    explore, learn = parts.explore, parts.learner_generate
    trained = parts.update + parts.weight_sync + parts.sleep_wake
    if mode.explorer_sleeps:
        return explore + learn + trained
    if stale:
        explored = explore if ahead else explore + trained
        return longest(explored, learn + parts.weight_sync, trained)
    if ahead:
        return longest(explore, learn + trained)
    return longest(explore, learn) + trained


def first_step_wait(mode: PlacementMode, parts: StepParts[Seconds], *, ahead: bool, stale: bool) -> Seconds:
    """How many seconds longer the run's first step takes, for which nothing was sampled ahead."""
    with np.errstate(invalid="ignore"):  # inf - inf, where there is no engine
        wait: Seconds = np.nan_to_num(
            step_seconds(mode, parts, ahead=False, stale=False) - step_seconds(mode, parts, ahead=ahead, stale=stale)
        )
    return wait


def longest(*seconds: Seconds) -> Seconds:
    """The element-wise maximum."""
    found: Seconds = reduce(np.maximum, seconds)
    return found
