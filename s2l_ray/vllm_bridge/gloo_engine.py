"""The engine's end of a gloo broadcast: vLLM 0.32 has no weight transfer for CPUs, so this is one in its protocol."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferUpdateInfo
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from s2l_ray.weights.buckets import BufferPool, WeightSpec
from s2l_ray.weights.gloo_receiver import receive
from s2l_ray.weights.messages import Invitation
from s2l_ray.weights.rendezvous import BroadcastGroup, open_store


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """The description of what arrives: the whole model, in the order of the stream."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class GlooWeightTransferEngine(WeightTransferEngine[Invitation, GlooUpdateInfo]):
    """Receives buckets by gloo broadcast, one while the last is loaded, inside vLLM's layerwise reload.

    The layerwise reload is what makes loading into a running engine right: linear layers are re-packed after loading,
    on CPUs as with quantised weights, so plain `load_weights` into a running model fails.
    """

    init_info_cls = Invitation
    update_info_cls = GlooUpdateInfo

    _group: BroadcastGroup | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._buffers = BufferPool()

    def init_transfer_engine(self, init_info: Invitation) -> None:
        """Join the broadcast group that the invitation names."""
        self.shutdown()
        store = open_store(init_info.meeting, init_info.timeout_s)
        rank = init_info.rank_offset + self.parallel_config.rank
        self._group = BroadcastGroup(
            store, init_info.group, rank, init_info.size, _own_address(init_info.host), init_info.timeout_s
        )

    def start_weight_update(self) -> None:
        """Begin vLLM's layerwise reload."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive the whole model."""
        # The base class also synchronises the accelerator, which a CPU worker does not have.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Receive bucket by bucket, loading each while the next arrives."""
        if self._group is None:
            raise RuntimeError("init_weight_transfer_engine must come before update_weights")
        rows = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        specs = [WeightSpec(name, dtype, tuple(shape)) for name, dtype, shape in rows]
        try:
            for tensors in receive(self._group, specs, self._buffers):
                self.model.load_weights([(name, tensor.to(self.device)) for name, tensor in tensors])
        except Exception:
            # A broadcast passes from member to member: those on either side learn from the closed connections that it
            # is over, instead of waiting for the bound.
            self.shutdown()
            raise

    def finish_weight_update(self) -> None:
        """End the layerwise reload."""
        finalize_layerwise_reload(self.model, self.model_config)
        _renew_tied_copies(self.model)

    def shutdown(self) -> None:
        """Leave the broadcast group."""
        if self._group is not None:
            self._group.close()
            self._group = None


@torch.no_grad()
def _renew_tied_copies(model: torch.nn.Module) -> None:
    """Pack weights anew in layers that share another layer's tensor, such as an output head tied to the embedding.

    On CPUs vLLM computes with a packed copy of a layer's weights, which the reload renews in the layer that a tensor
    was sent for, and in no other: the head would keep the weights that the engine started with.
    """
    seen: set[int] = set()
    for layer in model.modules():
        weight = layer._parameters.get("weight")
        if id(weight) in seen:
            method: Any = layer.quant_method
            method.process_weights_after_loading(layer)
        elif weight is not None:
            seen.add(id(weight))


def _own_address(peer: str) -> str:
    """The address of this machine that faces `peer`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 1))  # no packet is sent: this only asks the routing table
        return str(probe.getsockname()[0])
