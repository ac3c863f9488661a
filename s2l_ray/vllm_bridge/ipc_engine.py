"""The engine's end of a CUDA IPC transfer: vLLM 0.32's own engine, fed with handles in plain data.

vLLM sends handles between its processes as pickles, which it accepts only with VLLM_ALLOW_INSECURE_SERIALIZATION=1;
that would let anything that reaches an engine run code in it. A handle is numbers and bytes, so it travels as those.

Not run on this project's CPU machines: it needs a GPU.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor
from vllm.distributed.weight_transfer.base import WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine, IPCWeightTransferUpdateInfo

PARAMETERS = tuple(inspect.signature(rebuild_cuda_tensor).parameters)
"""The parts of a handle, in torch's order."""
FIXED = {"tensor_cls": torch.Tensor, "storage_cls": torch.storage.TypedStorage, "dtype": torch.uint8}
"""The parts that are Python classes; the same for every packed buffer."""


def plain_handle(handle: tuple[Any, ...]) -> dict[str, Any]:
    """The parts of torch's handle on a packed buffer that are not `FIXED`, by name.

    Raises:
        ValueError: it is a handle on something else.
    """
    named = dict(zip(PARAMETERS, handle, strict=True))
    if any(named.pop(key) != value for key, value in FIXED.items()):
        raise ValueError(f"not a handle on a packed buffer: {handle[:6]}")
    return {key: list(value) if isinstance(value, tuple) else value for key, value in named.items()}


def torch_handle(plain: dict[str, Any]) -> tuple[Any, ...]:
    """The handle that `plain_handle` was given."""
    named = FIXED | {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return tuple(named[key] for key in PARAMETERS)


@dataclass
class PlainUpdateInfo(WeightTransferUpdateInfo):
    """One packed chunk: tensors laid end to end in a buffer that every trainer rank has on its own GPU."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    tensor_sizes: list[int]
    """Bytes of each tensor."""
    handles: dict[str, dict[str, Any]]
    """The buffer's handle on each GPU, by the GPU's UUID."""

    def for_vllm(self) -> IPCWeightTransferUpdateInfo:
        """The same chunk in vLLM's own form."""
        return IPCWeightTransferUpdateInfo(
            names=self.names,
            dtype_names=self.dtype_names,
            shapes=self.shapes,
            tensor_sizes=self.tensor_sizes,
            ipc_handles={gpu: torch_handle(handle) for gpu, handle in self.handles.items()},
        )


class PlainIpcEngine(IPCWeightTransferEngine):
    """vLLM's receiver, always packed. It joins no group: `init_transfer_engine` is not called."""

    update_info_cls = PlainUpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.packed = True

    def receive_weights(self, update_info: PlainUpdateInfo) -> None:
        """Copy one chunk out of the buffer that the trainer rank shows."""
        super().receive_weights(update_info.for_vllm())
