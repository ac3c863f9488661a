"""How a model's weights are cut into broadcasts. Both ends compute it from the same specifications: bytes travel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

BUCKET_BYTES = 64 * 2**20
"""gloo: large enough to reach a link's bandwidth, small enough that a bucket on both ends costs little memory."""
GPU_CHUNK_BYTES = 256 * 2**20
"""nccl and ipc. nccl holds GPU_BUFFERS chunks on each end, each longer by up to one tensor; ipc holds one chunk on the
trainer's rank (as large as the largest tensor, if that is larger) and a copy of it in the engine."""
GPU_BUFFERS = 2

WeightStream = Iterator[tuple[str, torch.Tensor]]
"""(Hugging Face name, whole tensor), one at a time. Walking it gathers shards: a collective of all trainer ranks."""


@dataclass(frozen=True)
class WeightSpec:
    """One tensor of a Hugging Face state dict, as it travels."""

    name: str
    dtype: str
    """Name of the torch dtype, "bfloat16" or "float32"."""
    shape: tuple[int, ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.torch_dtype.itemsize


def checked(weights: WeightStream, specs: Iterable[WeightSpec]) -> WeightStream:
    """The stream, as long as it is what the receivers were told to expect.

    Raises:
        ValueError: it yields another name, dtype or shape than the specification says, or ends early.
    """
    for spec in specs:
        name, tensor = next(weights, (None, torch.empty(0)))
        if (name, tensor.dtype, tuple(tensor.shape)) != (spec.name, spec.torch_dtype, spec.shape):
            raise ValueError(
                f"the weight stream yields {name} {tensor.dtype} {tuple(tensor.shape)} where {spec} was declared"
            )
        yield name, tensor


def plan_buckets(specs: Iterable[WeightSpec], limit: int = BUCKET_BYTES) -> list[list[WeightSpec]]:
    """Cut `specs`, in order, into runs of at most `limit` bytes; a larger tensor is a bucket of its own."""
    buckets: list[list[WeightSpec]] = []
    room = 0
    for spec in specs:
        if not buckets or spec.nbytes > room:
            buckets.append([])
            room = limit
        buckets[-1].append(spec)
        room -= spec.nbytes
    return buckets


def pack(bucket: list[WeightSpec], weights: WeightStream) -> torch.Tensor:
    """Take the bucket's tensors from the stream and lay them end to end: uint8 [bucket bytes] on the CPU.

    Raises:
        ValueError: the stream is not what the specification says.
    """
    buffer = torch.empty(sum(s.nbytes for s in bucket), dtype=torch.uint8)
    for target, (_, tensor) in zip(_views(bucket, buffer), checked(weights, bucket), strict=True):
        target.copy_(tensor)
    return buffer


def unpack(bucket: list[WeightSpec], buffer: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Views of the bucket's tensors in a received buffer."""
    return [(spec.name, view) for spec, view in zip(bucket, _views(bucket, buffer), strict=True)]


def _views(bucket: list[WeightSpec], buffer: torch.Tensor) -> Iterator[torch.Tensor]:
    offset = 0
    for spec in bucket:
        piece = buffer[offset : offset + spec.nbytes]
        # Within a mixed-dtype bucket an offset may be off the dtype's alignment, which `view` refuses.
        aligned = offset % spec.torch_dtype.itemsize == 0
        if not aligned:
            raise RuntimeError(
                f"{spec.name} starts at byte {offset}, off its alignment: order the specifications by dtype"
            )
        yield piece.view(spec.torch_dtype).view(spec.shape)
        offset += spec.nbytes
