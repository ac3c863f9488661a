"""The ways in which weights get from trainer ranks to learner engines, each with its two ends.

To add one: its sender, its engine (a `WeightTransferEngine` of vLLM's), an entry here and its name in `kinds.Transfer`.
The placement (`planner`) decides which engine uses which.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from s2l_ray.kinds import Transfer

ClassPath = tuple[str, str]
"""Module and class. Imported by the process that uses it only: most ends import vLLM, which takes seconds."""


@dataclass(frozen=True)
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

    def load_sender(self) -> Any:
        """The sender's class."""
        module, name = self.sender
        return getattr(import_module(module), name)


TRANSFERS: dict[Transfer, TransferMethod] = {
    method.name: method
    for method in (
        TransferMethod(
            "gloo",
            grouped=True,
            sender=("s2l_ray.weights.gloo_sender", "GlooSender"),
            engine=("s2l_ray.vllm_bridge.gloo_engine", "GlooWeightTransferEngine"),
        ),
        TransferMethod(
            "nccl",
            grouped=True,
            sender=("s2l_ray.vllm_bridge.nccl_sender", "NcclSender"),
            engine=("s2l_ray.vllm_bridge.nccl_engine", "BoundedNcclEngine"),
        ),
        TransferMethod(
            "ipc",
            grouped=False,
            sender=("s2l_ray.vllm_bridge.ipc_sender", "IpcSender"),
            engine=("s2l_ray.vllm_bridge.ipc_engine", "PlainIpcEngine"),
        ),
    )
}
