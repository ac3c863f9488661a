"""The division of a model's weights into broadcasts, computed by both ends from the same specifications."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from s2l_ray.weights.sizes import BUCKET_BYTES

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
        """The torch dtype of this name."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.torch_dtype.itemsize


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` of a tensor laid out flat; most pieces are whole tensors."""

    spec: WeightSpec
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return (self.stop - self.start) * self.spec.torch_dtype.itemsize

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole tensor."""
        return self.stop - self.start == self.spec.numel


Bucket = list[Piece]


class WeightSource(Protocol):
    """The trainer's present weights, on every rank."""

    def __iter__(self) -> WeightStream: ...

    def read(self, bucket: Bucket, targets: list[torch.Tensor] | None) -> None:
        """Write the bucket's pieces into flat `targets` of their dtypes. A collective; ranks other than 0 pass None."""


def checked(weights: Iterable[tuple[str, torch.Tensor]], specs: Iterable[WeightSpec]) -> WeightStream:
    """The stream, as long as it is what the receivers were told to expect.

    Raises:
        ValueError: it yields another name, dtype or shape than the specification says, or ends early.
    """
    weights = iter(weights)
    for spec in specs:
        found = next(weights, None)
        if found is None:
            raise ValueError(f"the weight stream ends where {spec} was declared")
        name, tensor = found
        if (name, tensor.dtype, tuple(tensor.shape)) != (spec.name, spec.torch_dtype, spec.shape):
            raise ValueError(
                f"the weight stream yields {name} {tensor.dtype} {tuple(tensor.shape)} where {spec} was declared"
            )
        yield name, tensor


def plan_buckets(specs: Iterable[WeightSpec], limit: int = BUCKET_BYTES) -> list[Bucket]:
    """Cut `specs`, in order, into runs of at most `limit` bytes; a larger tensor is cut over buckets of its own."""
    buckets: list[Bucket] = []
    room = 0
    for spec in specs:
        if spec.nbytes > limit:
            longest = limit // spec.torch_dtype.itemsize
            cuts = [*range(0, spec.numel, longest), spec.numel]
            buckets += [[Piece(spec, start, stop)] for start, stop in pairwise(cuts)]
            room = 0
            continue
        if spec.nbytes > room or not buckets:
            buckets.append([])
            room = limit
        buckets[-1].append(Piece(spec, 0, spec.numel))
        room -= spec.nbytes
    return buckets


def bucket_bytes(bucket: Bucket) -> int:
    """Size of all of its pieces."""
    return sum(piece.nbytes for piece in bucket)


def flat_views(bucket: Bucket, buffer: torch.Tensor) -> list[torch.Tensor]:
    """The bucket's pieces, laid end to end in a uint8 buffer: one flat view of the piece's dtype each."""
    views, offset = [], 0
    for piece in bucket:
        dtype = piece.spec.torch_dtype
        if offset % dtype.itemsize:
            # Only with mixed dtypes; `view` would refuse it with less to say.
            raise RuntimeError(f"{piece.spec.name} starts at byte {offset}, off its alignment: order tensors by dtype")
        views.append(buffer[offset : offset + piece.nbytes].view(dtype))
        offset += piece.nbytes
    return views


class BufferPool:
    """Host buffers of one size that are used again as soon as no tensor looks into them any more.

    Memory that is used again is mapped already: on a fresh buffer the page faults take longer than the broadcast.
    """

    def __init__(self, nbytes: int = BUCKET_BYTES) -> None:
        self._nbytes = nbytes
        self._free: list[np.ndarray] = []
        self.made = 0
        """Buffers that exist: as many as were ever in use at one time."""

    def take(self, nbytes: int) -> torch.Tensor:
        """uint8 [nbytes], uninitialised. The buffer is free again when the last view of it is gone."""
        if self._free:
            buffer = self._free.pop()
        else:
            buffer = np.empty(self._nbytes, dtype=np.uint8)
            self.made += 1
        lease = buffer[:nbytes]  # lives as long as the tensor's storage does
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return torch.from_numpy(lease)
