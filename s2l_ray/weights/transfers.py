"""The ways in which weights get from trainer ranks to learner engines, each with its two ends. Without torch.

To add one: its sender, its engine (a `WeightTransferEngine` of vLLM's), an entry here and its name in `kinds.Transfer`.
Which engines use it is a rule of the placement (`planner.search`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from s2l_ray.kinds import Transfer
from s2l_ray.weights.sizes import BUCKET_BYTES, BUCKETS_HELD, GPU_BUFFERS, GPU_CHUNK_BYTES

ClassPath = tuple[str, str]
"""Module and class. Imported by the process that uses it only: most ends import vLLM, which takes seconds."""


@dataclass(frozen=True, kw_only=True)
class TransferMethod:
    """One way to transfer weights."""

    name: Transfer
    grouped: bool
    """True: trainer rank 0 broadcasts in a group that it forms with every worker of the engines (`GroupSender`).
    False: every trainer rank shows the workers on its own device one chunk after another (`ChunkSender`)."""
    sender: ClassPath
    """The trainer ranks' end."""
    engine: ClassPath
    """The workers' end, registered with vLLM by `vllm_bridge.worker`."""
    gathers_tensors: bool
    """True: trainer ranks gather a whole tensor, then copy it into a buffer. False: parts of tensors go straight into
    the buffer, and ranks other than 0 send theirs from a buffer of the same size."""
    sender_bytes: Callable[[int, int], int]
    """Bytes of rank 0's buffers, from those of the whole model and of its largest tensor."""
    engine_bytes: Callable[[int], int]
    """Bytes of a worker's buffers, from those of the largest tensor, which arrives whole."""

    def load_sender(self) -> Any:
        """The sender's class."""
        module, name = self.sender
        return getattr(import_module(module), name)


GLOO = TransferMethod(
    name="gloo",
    grouped=True,
    sender=("s2l_ray.weights.gloo_sender", "GlooSender"),
    engine=("s2l_ray.vllm_bridge.gloo_engine", "GlooWeightTransferEngine"),
    gathers_tensors=False,
    sender_bytes=lambda model, _: (BUCKETS_HELD if model > BUCKET_BYTES else 1) * min(BUCKET_BYTES, model),
    # A tensor that is larger than a bucket is put together in memory of its own.
    engine_bytes=lambda largest: (BUCKETS_HELD + 1) * BUCKET_BYTES + (largest if largest > BUCKET_BYTES else 0),
)
NCCL = TransferMethod(
    name="nccl",
    grouped=True,
    sender=("s2l_ray.vllm_bridge.nccl_sender", "NcclSender"),
    engine=("s2l_ray.vllm_bridge.nccl_engine", "BoundedNcclEngine"),
    gathers_tensors=True,
    # Chunks on their way, the next one with the largest tensor in it, and the tensors that it is copied from.
    sender_bytes=lambda _, largest: (GPU_BUFFERS + 1) * GPU_CHUNK_BYTES + largest,
    engine_bytes=lambda largest: GPU_BUFFERS * GPU_CHUNK_BYTES + largest,
)
IPC = TransferMethod(
    name="ipc",
    grouped=False,
    sender=("s2l_ray.vllm_bridge.ipc_sender", "IpcSender"),
    engine=("s2l_ray.vllm_bridge.ipc_engine", "PlainIpcEngine"),
    gathers_tensors=True,
    sender_bytes=lambda _, largest: max(largest, GPU_CHUNK_BYTES),
    engine_bytes=lambda largest: max(GPU_CHUNK_BYTES, largest),
)
TRANSFERS: dict[Transfer, TransferMethod] = {method.name: method for method in (GLOO, NCCL, IPC)}
