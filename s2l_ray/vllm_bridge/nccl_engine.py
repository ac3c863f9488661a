"""The engine's end of an nccl broadcast: vLLM 0.32's own engine, made bounded (see `weights.nccl_bounds`).

Not run on this project's CPU machines: it needs two GPUs.
"""

from __future__ import annotations

import base64
from copy import copy

import torch
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)

from s2l_ray.weights.messages import Invitation
from s2l_ray.weights.nccl_bounds import abort_after, agree_on_id, in_time
from s2l_ray.weights.rendezvous import open_store
from s2l_ray.weights.sizes import GPU_BUFFERS, GPU_CHUNK_BYTES


class BoundedNcclEngine(NCCLWeightTransferEngine):
    """vLLM's receiver in a group that forms, and receives, within a bound."""

    init_info_cls = Invitation

    def init_transfer_engine(self, init_info: Invitation) -> None:
        """Join the group that the invitation names, within its bound."""
        self.shutdown()
        self._timeout_s = init_info.timeout_s
        rank = init_info.rank_offset + self.parallel_config.rank
        store = open_store(init_info.meeting, init_info.timeout_s)
        unique_id = agree_on_id(store, init_info.group, rank, init_info.size)
        theirs = vllm_init_info(init_info, unique_id)

        def joined() -> BoundedNcclEngine:
            # vLLM writes what it has formed into the engine: into one apart, or a group that is late would take the
            # place of a newer one.
            apart = copy(self)
            with torch.accelerator.device_index(self.device.index):  # the current device is a thread's own
                NCCLWeightTransferEngine.init_transfer_engine(apart, theirs)
            return apart

        self.__dict__.update(in_time(joined, self._timeout_s, undo=lambda late: late.shutdown()).__dict__)

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receive the whole model, within the bound."""
        with abort_after(self._timeout_s, self.shutdown):
            super().receive_weights(update_info)


def vllm_init_info(invitation: Invitation, unique_id: bytes) -> NCCLWeightTransferInitInfo:
    """The init info of vLLM, in its unique-id form, with the chunks that `NcclSender` cuts."""
    return NCCLWeightTransferInitInfo(
        rank_offset=invitation.rank_offset,
        world_size=invitation.size,
        nccl_unique_id_b64=base64.b64encode(unique_id).decode(),
        packed=True,
        packed_buffer_size_bytes=GPU_CHUNK_BYTES,
        packed_num_buffers=GPU_BUFFERS,
    )
