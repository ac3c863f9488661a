"""The trainer's end of a CUDA IPC transfer, for engines that share their GPUs with trainer ranks. Imports vLLM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch

from s2l_ray.errors import ConfigError
from s2l_ray.machine.device_memory import give_back_cached
from s2l_ray.weights.buckets import WeightSource, WeightSpec, checked
from s2l_ray.weights.sender import ChunkSender
from s2l_ray.weights.sizes import GPU_CHUNK_BYTES


class IpcSender(ChunkSender):
    """Shows the engines' workers on this rank's GPU the weights, one chunk at a time, in a buffer that both map.

    Every trainer rank has one and walks the same stream (gathering FSDP shards is a collective), so each worker finds
    the whole tensors on its own GPU. The next chunk overwrites the buffer: ask for it only when every worker has taken
    the present one.
    """

    def __init__(self, specs: list[WeightSpec]) -> None:
        for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            if "expandable_segments:True" in os.environ.get(variable, ""):
                raise ConfigError(
                    f"{variable} has expandable_segments:True, which CUDA IPC cannot share: unset it, or set "
                    "placement.mode=separate"
                )
        super().__init__(specs)
        self._buffer_bytes = max(GPU_CHUNK_BYTES, *(spec.nbytes for spec in specs))
        self._chunks: Iterator[Any] = iter(())

    def begin(self, weights: WeightSource) -> None:
        """Start over, with the weights of one version."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

        gpu = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        self._chunks = packed_ipc_producer(
            checked(weights, self._specs), gpu, lambda item: item[1], buffer_size_bytes=self._buffer_bytes
        )

    def next_chunk(self) -> dict[str, Any] | None:
        """The next chunk as this rank's part of `messages.merge_chunks`; None after the last. A collective."""
        from s2l_ray.vllm_bridge.ipc_engine import plain_handle

        chunk = next(self._chunks, None)
        if chunk is None:
            return None
        return {
            "names": chunk.names,
            "dtype_names": chunk.dtype_names,
            "shapes": chunk.shapes,
            "tensor_sizes": chunk.tensor_sizes,
            "handles": {gpu: plain_handle(handle) for gpu, handle in chunk.ipc_handle.items()},
        }

    def end(self) -> None:
        """Give the buffer's memory back; once the workers have finished the weight sync, and so have let go of it."""
        self._chunks = iter(())
        torch.cuda.ipc_collect()
        give_back_cached()
