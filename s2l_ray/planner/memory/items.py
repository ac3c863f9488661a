"""Sizes that the trainer's and the engines' ledgers share: types, blocks, buffers, and what cannot be derived."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2l_ray.config import Config

Ledger = dict[str, int]
"""Bytes per item."""

MIB = 2**20
FLOAT32 = 4
GPU_BLOCK_TOKENS, CPU_BLOCK_TOKENS = 16, 128
"""Tokens of a block of vLLM's KV cache (vllm/config/cache.py, vllm/platforms/cpu.py)."""

CUDA_CONTEXT_BYTES = 850 * MIB
"""Context, loaded kernels and cuBLAS work space of a process: 821 MiB in a trainer rank on an H200 (driver 580)."""
NCCL_BYTES = 400 * MIB
"""Buffers of one communicator. Not measured here."""
TRAINER_PROCESS_BYTES = 600 * MIB
ENGINE_PROCESS_BYTES = 800 * MIB
"""Resident memory on Linux before a model is loaded: a trainer rank (measured: 576 MiB), a process with
vLLM (780 MiB)."""


def dtype_bytes(config: Config) -> int:
    """Bytes of an element of models.dtype: engines, the trainer's forward and backward, and the weights that travel."""
    return {"bfloat16": 2, "float32": 4}[config.models.dtype]


def context_bytes(cuda: bool, communicators: int, process: int) -> int:
    """Bytes of an actor without a model: on a GPU the CUDA context and NCCL's communicators; else `process`."""
    return CUDA_CONTEXT_BYTES + communicators * NCCL_BYTES if cuda else process


def positive(ledger: Ledger) -> Ledger:
    """The items that are not zero."""
    return {item: size for item, size in ledger.items() if size}
