"""What a trainer rank and an engine hold in memory, item by item, in closed form from model shape and configuration.

Every term names the line of code that allocates it: s2l_ray/training for the trainer, torch's FSDP2
(torch/distributed/fsdp/_fully_shard) for what it gathers and reduces, vLLM for engines. Bytes are per device.
tests/test_memory.py compares them with what is allocated in real updates and real engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from s2l_ray.placement.architecture import ModelShape

if TYPE_CHECKING:
    from s2l_ray.config import Config

Ledger = dict[str, int]

MIB, GIB = 2**20, 2**30
FLOAT32 = 4
GPU_BLOCK_TOKENS, CPU_BLOCK_TOKENS = 16, 128
"""vLLM's KV cache blocks (vllm/config/cache.py, vllm/platforms/cpu.py)."""
BATCHED_TOKENS = 2048
"""vLLM's max_num_batched_tokens for AsyncLLM (SchedulerConfig.DEFAULT_MAX_NUM_BATCHED_TOKENS)."""
VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to multiples of it (vocab_parallel_embedding.py)."""
BUCKET_BYTES = 64 * MIB
"""s2l_ray/weights/buckets.py, which imports torch."""

# Not computed but typical of CUDA 12 and 13 on data-centre GPUs: contexts, loaded kernels, cuBLAS work space.
CUDA_CONTEXT_BYTES = 700 * MIB
NCCL_BYTES = 400 * MIB
"""Communicator buffers, with more than one rank."""
# Resident memory of processes that have imported what they need and loaded nothing, measured on Linux.
TRAINER_PROCESS_BYTES = 600 * MIB
ENGINE_PROCESS_BYTES = 1536 * MIB


@dataclass(frozen=True)
class TrainerMemory:
    """Of one rank, on its device."""

    update: Ledger
    """Alive at the peak of the update."""
    idle: Ledger
    """Alive while engines sample."""
    swap: Ledger
    """Alive while weights are sent."""


def trainer_ledger(shape: ModelShape, config: Config, ranks: int, *, cuda: bool) -> TrainerMemory:
    """Memory of one trainer rank out of `ranks` (rank 0, whose shards are the largest).

    The peak is that of a step of which every rollout has its full length.

    Args:
        cuda: False for a rank on CPUs: no CUDA context but the process itself, attention in float32.
    """
    rank = _Rank(shape, config, ranks, cuda)
    resident = rank.resident()
    return TrainerMemory(
        update=_positive(resident | max(rank.moments(), key=lambda moment: sum(moment.values()))),
        idle=_positive(resident),
        swap=_positive(resident | {"transfer_buffers": rank.sending()}),
    )


def engine_ledger(
    shape: ModelShape,
    config: Config,
    role: Literal["learner", "explorer"],
    tensor_parallel: int,
    kv_cache_bytes: int,
    *,
    cuda: bool,
) -> Ledger:
    """Memory of an engine on each of its `tensor_parallel` devices while it samples.

    Args:
        kv_cache_bytes: on each device; what the engine is started with.
        cuda: False for an engine on CPUs: no CUDA context but its processes.
    """
    engine = getattr(config.engines, role)
    dtype = dtype_bytes(config)
    ledger = {
        "weights": engine_weight_bytes(shape, tensor_parallel, dtype),
        "kv_cache": kv_cache_bytes,
        "activations": _engine_activations(shape, config, role, tensor_parallel, dtype),
        "cuda_graphs": 0 if engine.enforce_eager or not cuda else _cuda_graph_bytes(shape),
        "transfer_buffers": _receiving(shape, tensor_parallel, dtype) if role == "learner" else 0,
        "context": _context(cuda, tensor_parallel, ENGINE_PROCESS_BYTES),
    }
    return _positive(ledger)


def kv_cache_bytes_for(
    shape: ModelShape,
    tokens: int,
    tensor_parallel: int,
    dtype_bytes: int = 2,
    *,
    block_tokens: int = GPU_BLOCK_TOKENS,
) -> int:
    """The least KV cache on each device with which vLLM holds `tokens` tokens of one sequence.

    Whole blocks, and the one that vLLM keeps back as a null block. A device holds at least one key-value head: with
    more devices than heads the heads are replicated.
    """
    blocks = math.ceil(tokens / block_tokens) + 1
    return blocks * block_tokens * kv_bytes_per_token(shape, tensor_parallel, dtype_bytes)


def kv_bytes_per_token(shape: ModelShape, tensor_parallel: int, dtype_bytes: int = 2) -> int:
    """On each of the engine's devices."""
    return shape.kv_bytes_per_token(dtype_bytes) // shape.kv_heads * math.ceil(shape.kv_heads / tensor_parallel)


def dtype_bytes(config: Config) -> int:
    """Of models.dtype: engines, the trainer's forward and backward, and the weights that travel."""
    return {"bfloat16": 2, "float32": 4}[config.models.dtype]


def engine_weight_bytes(shape: ModelShape, tensor_parallel: int, dtype_bytes: int = 2) -> int:
    """Of each device: matrices are cut (key-value heads at most once each), norms and output biases replicated."""
    kv_width = math.ceil(shape.kv_heads / tensor_parallel) * shape.head_dim
    query_width, mlp = shape.query_width // tensor_parallel, math.ceil(shape.intermediate / tensor_parallel)
    qkv = query_width + 2 * kv_width
    layer = shape.hidden * (qkv + query_width + 3 * mlp)
    layer += qkv * shape.qkv_bias + shape.hidden * shape.output_bias
    layer += (2 * mlp + shape.hidden) * shape.mlp_bias
    layer += shape.hidden * shape.norms + 2 * shape.head_dim * shape.qk_norm
    vocabulary = _padded_vocabulary(shape) // tensor_parallel
    matrices = 1 if shape.tied else 2
    return dtype_bytes * (shape.layers * layer + matrices * vocabulary * shape.hidden + shape.hidden)


class _Rank:
    """One trainer rank: sizes that several items share, then the items."""

    def __init__(self, shape: ModelShape, config: Config, ranks: int, cuda: bool) -> None:
        self.shape, self.config, self.ranks, self.cuda = shape, config, ranks, cuda
        self.dtype = dtype_bytes(config)
        trainer, rollout = config.trainer, config.rollout
        self.longest = config.data.max_prompt_tokens + rollout.max_tokens
        prompts = config.objective.mini_batch_prompts or rollout.prompts_per_step
        of_a_step = math.ceil(prompts * rollout.group_size / ranks)
        # Longest first into rows of at most the budget; a longer sequence is a row of its own (training/packing.py).
        self.sequences = min(of_a_step, max(1, trainer.micro_batch_tokens // self.longest))
        self.accumulates = of_a_step > self.sequences
        self.tokens = self.sequences * self.longest
        self.responses = self.sequences * rollout.max_tokens
        self.checkpointing = trainer.gradient_checkpointing == "on" or (
            trainer.gradient_checkpointing == "auto" and cuda
        )

    def resident(self) -> Ledger:
        """Alive from the first update on: float32 weights and AdamW's two states of what is trained."""
        trained = self._trained_shards()
        frozen = self._shards(self.shape.layer_tensors, self.shape.root_tensors) if self.lora else 0
        reference = 0
        if self.config.objective.kl > 0:
            whole = self._shards(self.shape.layer_tensors, self.shape.root_tensors)
            # FSDP2 does not reshard the root after a forward, and without a backward nothing else does.
            reference = self.dtype * (whole + self.shape.root_parameters)
        return {
            "weights": FLOAT32 * trained + self.dtype * frozen,
            "optimizer": 2 * FLOAT32 * trained,
            "reference": reference,
            "context": _context(self.cuda, self.ranks, TRAINER_PROCESS_BYTES),
        }

    def moments(self) -> list[Ledger]:
        """What comes on top of it at the moments of a backward that can be the peak."""
        gradients = FLOAT32 * self._trained_shards()
        # All gradients are there from the first micro-batch on; with only one, hardly any before the end.
        earlier = {"gradients": gradients if self.accumulates else 0, "batch": self._batch()}
        moments = [earlier | moment for moment in (self._at_head(), *self._at_layers())]
        return [*moments, earlier | {"gradients": gradients} | self._at_end()]

    def _at_head(self) -> Ledger:
        """Backward of the output head: every activation waits, the head's gradient is summed in float32."""
        shape, dtype = self.shape, self.dtype
        # A product in the compute dtype is added to the sum; CPUs make it float32 before.
        parts = FLOAT32 + dtype + (FLOAT32 if dtype != FLOAT32 and not self.cuda else 0)
        gradient = 0 if self.lora else parts * shape.vocab * shape.hidden
        # The next group of parameters is gathered ahead, if there is something to gather.
        gathered = dtype * (shape.root_parameters + self._layer_parameters() * (self.ranks > 1))
        return {
            "gathered": gathered,
            "activations": self._saved(shape.layers) + self._saved_at_end(),
            "logits": self._logits() + gradient,
        }

    def _at_layers(self) -> list[Ledger]:
        """Backward of a layer: within the last one's MLP; within the one before, when the last one's float32 gradients
        are still being reduced; and at a layer's end, when its gradients are copied to be reduced."""
        shape, dtype, layer = self.shape, self.dtype, self._layer_parameters()
        gathered = dtype * (shape.root_parameters + layer * min(2, self.ranks))
        head = 0 if self.lora else dtype * shape.vocab * shape.hidden
        down = 0 if self.lora else dtype * shape.hidden * shape.intermediate
        trained = sum(math.prod(t) for t in self._adapters()) if self.lora else layer
        recomputed = self._layer_saved() if self.checkpointing else 0
        work = recomputed + self.tokens * dtype * (2 * shape.intermediate + 2 * shape.hidden)
        before = max(1, shape.layers - 1)
        return [
            {
                "gathered": gathered,
                "activations": self._saved(shape.layers) + work,
                "unreduced_gradients": head + down,
            },
            {
                "gathered": gathered,
                "activations": self._saved(before) + work,
                "unreduced_gradients": head + down + FLOAT32 * trained,
            },
            {
                "gathered": gathered - dtype * layer,
                "activations": self._saved(before),
                "unreduced_gradients": head + (dtype + FLOAT32) * trained,
            },
        ]

    def _at_end(self) -> Ledger:
        """Embedding and head are reduced last, from a float32 copy."""
        trained = 0 if self.lora else self.shape.root_parameters
        return {"unreduced_gradients": trained * (FLOAT32 + max(self.dtype, math.ceil(FLOAT32 / self.ranks)))}

    def sending(self) -> int:
        """Rank 0: the largest tensor is cast, gathered and put into a bucket (training/weights.py, weights/sender.py)."""
        largest = self.dtype * max(
            math.prod(tensor) for tensor in (*self.shape.layer_tensors, *self.shape.root_tensors)
        )
        return largest // self.ranks + largest + max(largest, BUCKET_BYTES)

    @property
    def lora(self) -> int:
        return self.config.trainer.lora_rank

    def _shards(self, layer: Iterable[tuple[int, ...]], root: Iterable[tuple[int, ...]]) -> int:
        """Parameters of rank 0's shards: FSDP2 cuts the first dimension into equal parts, rounded up."""

        def of(tensors: Iterable[tuple[int, ...]]) -> int:
            return sum(math.ceil(t[0] / self.ranks) * math.prod(t[1:]) for t in tensors)

        return self.shape.layers * of(layer) + of(root)

    def _trained_shards(self) -> int:
        if not self.lora:
            return self._shards(self.shape.layer_tensors, self.shape.root_tensors)
        return self._shards(self._adapters(), [])

    def _adapters(self) -> list[tuple[int, ...]]:
        """Of one layer: A [rank, in] and B [out, rank] beside every linear layer that is asked for."""
        if not self.lora:
            return []
        targets = self.config.trainer.lora_targets or self.shape.linears
        pairs = [self.shape.linears[name] for name in targets if name in self.shape.linears]
        return [t for out, width in pairs for t in ((self.lora, width), (out, self.lora))]

    def _layer_parameters(self) -> int:
        """Of one layer, adapters included."""
        return self.shape.layer_parameters + sum(math.prod(t) for t in self._adapters())

    def _batch(self) -> int:
        """All micro-batches of the step are on the device (PolicyTrainer._pack_in_step): 24 bytes a token and 34 bytes a
        response token (training/packing.py)."""
        rollout = self.config.rollout
        rollouts = math.ceil(rollout.prompts_per_step * rollout.group_size / self.ranks)
        return rollouts * (24 * self.longest + 34 * rollout.max_tokens)

    def _logits(self) -> int:
        """Of one chunk of tokens, in float32 and as a gradient in the compute dtype (training/logprobs.py)."""
        tokens = min(self.config.trainer.logprob_chunk_tokens, self.responses)
        return tokens * self.shape.vocab * (FLOAT32 + (self.dtype if self.dtype != FLOAT32 else 0))

    def _saved(self, layers: int) -> int:
        """Activations of `layers` layers that wait for the backward; with checkpointing, only the layers' inputs."""
        rotary = 2 * self.tokens * self.dtype * self.shape.head_dim
        one = self.tokens * self.dtype * self.shape.hidden if self.checkpointing else self._layer_saved()
        return rotary + layers * one

    def _saved_at_end(self) -> int:
        """The final norm's, and the hidden states that predict responses."""
        norm = self._norm_bytes() * self.tokens
        return self.shape.hidden * (norm + self.dtype * self.responses)

    def _layer_saved(self) -> int:
        """What one layer's operations keep for their backward."""
        shape, dtype = self.shape, self.dtype
        attention_dtype = dtype if self.cuda else FLOAT32
        # Norms, then the inputs of the matrices that follow two of them.
        per_token = shape.norms * self._norm_bytes() * shape.hidden + 2 * dtype * shape.hidden
        per_token += self._norm_bytes() * (shape.query_width + shape.kv_width) * shape.qk_norm
        # Queries, keys, values (repeated to all heads) and output; the output again if it changes type.
        per_token += 4 * attention_dtype * shape.query_width + FLOAT32 * shape.heads
        per_token += dtype * shape.query_width * (attention_dtype != dtype)
        # Gate, its activation, up, their product.
        per_token += 4 * dtype * shape.intermediate
        per_token += dtype * self.lora * len(self._adapters()) // 2
        return self.tokens * per_token

    def _norm_bytes(self) -> int:
        """Kept per element of an RMS norm: the input in float32, and for the gradient of the norm's weight the
        normalised value (Gemma: in float32)."""
        if self.lora:
            return FLOAT32
        return FLOAT32 + (FLOAT32 if self.shape.family.startswith("gemma") else self.dtype)


def _engine_activations(shape: ModelShape, config: Config, role: str, tensor_parallel: int, dtype: int) -> int:
    """The larger of a forward over the largest batch of tokens and the sampler's work on all sequences."""
    engine = getattr(config.engines, role)
    tokens = min(BATCHED_TOKENS, engine.max_num_seqs * config.max_model_len(role))
    width = 3 * shape.hidden + (3 * shape.intermediate + 2 * shape.query_width) // tensor_parallel
    # Logits in both types, processed log-probs, probabilities and the noise that picks a token.
    sampler = engine.max_num_seqs * shape.vocab * (dtype + 4 * FLOAT32)
    return max(tokens * width * dtype, sampler)


def _cuda_graph_bytes(shape: ModelShape) -> int:
    """Not computed: vLLM reports about 0.7 GiB for 36 layers and 1 GiB for 64."""
    return 256 * MIB + 12 * MIB * shape.layers


def _receiving(shape: ModelShape, tensor_parallel: int, dtype: int) -> int:
    """The bucket with the largest tensor."""
    return max(BUCKET_BYTES, dtype * shape.vocab * shape.hidden)


def _padded_vocabulary(shape: ModelShape) -> int:
    return math.ceil(shape.vocab / VOCABULARY_PADDING) * VOCABULARY_PADDING


def _context(cuda: bool, ranks: int, process: int) -> int:
    if not cuda:
        return process
    return CUDA_CONTEXT_BYTES + (NCCL_BYTES if ranks > 1 else 0)


def _positive(ledger: Ledger) -> Ledger:
    """Without the items that this configuration does not have."""
    return {item: size for item, size in ledger.items() if size}
