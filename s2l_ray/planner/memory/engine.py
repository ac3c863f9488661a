"""Memory of a vLLM engine on each of its devices. Module names in comments are vLLM 0.32's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from s2l_ray.kinds import Source, Transfer
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.memory.items import (
    ENGINE_PROCESS_BYTES,
    FLOAT32,
    GPU_BLOCK_TOKENS,
    MIB,
    Ledger,
    context_bytes,
    dtype_bytes,
    positive,
)
from s2l_ray.weights.sizes import GPU_BUFFERS
from s2l_ray.weights.transfers import TRANSFERS

if TYPE_CHECKING:
    from s2l_ray.config import Config, EngineConfig

VOCABULARY_PADDING = 64
"""The vocabulary is padded to a multiple of it (model_executor/layers/vocab_parallel_embedding.py)."""


def engine_ledger(
    shape: ModelShape,
    config: Config,
    role: Source,
    tensor_parallel: int,
    kv_cache_bytes: int,
    *,
    cuda: bool,
    transfer: Transfer | None,
) -> Ledger:
    """Memory of an engine on each of its `tensor_parallel` devices while it samples.

    Args:
        kv_cache_bytes: on each device; what the engine is started with.
        cuda: False for an engine on CPUs: no CUDA context but its processes.
        transfer: how new weights arrive; None: the engine is an explorer, which gets none.
    """
    engine: EngineConfig = getattr(config.engines, role)
    dtype = dtype_bytes(config)
    communicators = (tensor_parallel > 1) + (transfer == "nccl")
    return positive(
        {
            "weights": engine_weight_bytes(shape, tensor_parallel, dtype),
            "kv_cache": kv_cache_bytes,
            "activations": _activations(
                shape,
                engine.batched_tokens(config.max_model_len(role), gpu=cuda),
                engine.max_num_seqs,
                tensor_parallel,
                dtype,
            ),
            "sampler": _sampler_state(shape, engine.max_num_seqs) if cuda else 0,
            "cuda_graphs": 0 if engine.enforce_eager or not cuda else _cuda_graph_bytes(shape),
            "transfer_buffers": _receiving(shape, tensor_parallel, dtype, transfer) if transfer else 0,
            "context": context_bytes(cuda, communicators, _processes(tensor_parallel) * ENGINE_PROCESS_BYTES),
        }
    )


def _processes(tensor_parallel: int) -> int:
    """Processes of a CPU engine per device: one for all (`vllm_bridge.in_process`), or the actor's and a worker's."""
    return 1 if tensor_parallel == 1 else 2


def kv_cache_bytes_for(
    shape: ModelShape,
    tokens: int,
    tensor_parallel: int,
    dtype_bytes: int = 2,
    *,
    block_tokens: int = GPU_BLOCK_TOKENS,
) -> int:
    """The least KV cache on each device with which vLLM holds `tokens` tokens of one sequence.

    Whole blocks, and the one that vLLM keeps back as a null block (v1/core/kv_cache_utils.py).
    """
    blocks = math.ceil(tokens / block_tokens) + 1
    return blocks * block_tokens * kv_bytes_per_token(shape, tensor_parallel, dtype_bytes)


def kv_bytes_per_token(shape: ModelShape, tensor_parallel: int, dtype_bytes: int = 2) -> int:
    """On each device; with more devices than key-value heads, every head is on several of them."""
    return shape.kv_bytes_per_token(dtype_bytes) // shape.kv_heads * math.ceil(shape.kv_heads / tensor_parallel)


def engine_weight_bytes(shape: ModelShape, tensor_parallel: int, dtype_bytes: int = 2) -> int:
    """On each device: matrices and vocabulary are cut, norms and biases of outputs are not."""
    kv_width = math.ceil(shape.kv_heads / tensor_parallel) * shape.head_dim
    query_width, mlp = shape.query_width // tensor_parallel, math.ceil(shape.intermediate / tensor_parallel)
    qkv = query_width + 2 * kv_width
    layer = shape.hidden * (qkv + query_width + 3 * mlp)
    layer += qkv * shape.qkv_bias + shape.hidden * shape.output_bias
    layer += (2 * mlp + shape.hidden) * shape.mlp_bias
    layer += shape.hidden * shape.norms + 2 * shape.head_dim * shape.qk_norm
    vocabulary = math.ceil(shape.vocab / VOCABULARY_PADDING) * VOCABULARY_PADDING // tensor_parallel
    matrices = 1 if shape.tied else 2
    return dtype_bytes * (shape.layers * layer + matrices * vocabulary * shape.hidden + shape.hidden)


def _activations(shape: ModelShape, tokens: int, sequences: int, tensor_parallel: int, dtype: int) -> int:
    """The larger of a forward over so many tokens and of sampling for so many sequences, the most of each.

    On CPUs sampling takes less: an upper bound there.
    """
    # Residual, hidden and normalised state; gate, up and their product; queries and output.
    width = 3 * shape.hidden + (3 * shape.intermediate + 2 * shape.query_width) // tensor_parallel
    # Logits (gathered whole on every device) in both types, processed log-probs, probabilities, and the noise that
    # picks a token (v1/sample/ops/topk_topp_sampler.py, forward_native).
    sampling = sequences * shape.vocab * (dtype + 4 * FLOAT32)
    return max(tokens * width * dtype, sampling)


def _sampler_state(shape: ModelShape, sequences: int) -> int:
    """An int32 and a bit for each sequence and token of the vocabulary (v1/worker/gpu/sample/penalties.py)."""
    return sequences * (FLOAT32 * shape.vocab + math.ceil(shape.vocab / 32) * FLOAT32)


def _cuda_graph_bytes(shape: ModelShape) -> int:
    """Not derived: vLLM's logs report about 0.7 GiB for 36 layers and 1 GiB for 64."""
    return 256 * MIB + 12 * MIB * shape.layers


def _receiving(shape: ModelShape, tensor_parallel: int, dtype: int, transfer: Transfer) -> int:
    """Bytes of what arrives, and of a layer's new weights until they replace the old ones (model_loader/reload).

    The largest tensor decides; it travels whole.
    """
    largest = dtype * shape.largest_tensor
    received = TRANSFERS[transfer].engine_bytes(largest)
    return min(received, GPU_BUFFERS * dtype * shape.parameters) + largest // tensor_parallel
