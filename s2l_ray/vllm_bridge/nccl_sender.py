"""The trainer's end of an nccl broadcast, for engines on GPUs of their own. Rank 0 of it imports vLLM (seconds)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from s2l_ray.weights.buckets import WeightSource, WeightStream, checked
from s2l_ray.weights.nccl_bounds import abort_after, agree_on_id, in_time
from s2l_ray.weights.rendezvous import SecretStore
from s2l_ray.weights.sender import GroupSender
from s2l_ray.weights.sizes import GPU_BUFFERS, GPU_CHUNK_BYTES


class NcclSender(GroupSender):
    """Member 0 of a vLLM communicator; packs and sends with vLLM's own producer, so chunks are cut as receivers do.

    The producer gathers and packs one chunk while the last one is on the wire, as vLLM's receiver loads one while the
    next arrives: each has GPU_BUFFERS CUDA streams that take turns.
    """

    def _join(self, store: SecretStore, group: str, size: int) -> Any:
        from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        unique_id = agree_on_id(store, group, 0, size, lambda: bytes(NCCLLibrary().ncclGetUniqueId().internal))
        device = torch.cuda.current_device()
        form = partial(uid_init_process_group, unique_id, 0, size, device)
        return in_time(form, self._timeout_s, undo=lambda group: group.destroy())

    def walk(self, weights: WeightSource) -> WeightStream:
        """The weights, tensor by tensor."""
        return iter(weights)

    def _broadcast(self, walk: Iterator[Any]) -> float:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        begin = time.perf_counter()
        with abort_after(self._timeout_s, self._group.destroy):
            packed_nccl_broadcast_producer(
                checked(walk, self._specs),
                self._group,
                src=0,
                post_iter_func=lambda item: item[1],
                buffer_size_bytes=GPU_CHUNK_BYTES,
                num_buffers=GPU_BUFFERS,
            )
        return time.perf_counter() - begin

    def _leave(self) -> None:
        self._group.destroy()
