"""One rank's training state in host memory: taken, handed to another process, and taken over there.

It holds what an update changes: the weights that are trained (in a run with adapters, the adapters alone), the
optimizer's states, the count of optimizer steps and the random states. Nothing in it refers to the trainer's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from s2l_ray.errors import ModelError
from s2l_ray.training.random_state import random_state, set_random_state

StateTensors = Mapping[str, Tensor]
"""The live tensors of a training state: weights as `model/NAME`, the optimizer's states as `STATE/NAME`."""


@dataclass(frozen=True)
class HostShard:
    """A rank's rows of a tensor."""

    dtype: str
    """torch's name, such as "float32"."""
    whole: tuple[int, ...]
    """Shape of the tensor over all ranks."""
    shape: tuple[int, ...]
    """Of these rows, which FSDP2 deals out as torch.chunk does. A tensor without dimensions is whole on every rank."""
    data: NDArray[np.uint8]
    """Their bytes in row-major order: NumPy has no bfloat16."""

    @classmethod
    def copy_of(cls, tensor: Tensor) -> HostShard:
        """A copy of this rank's part of a tensor, on whatever device it is. Not a collective."""
        local = local_part(tensor)
        flat = local.flatten().view(torch.uint8).to("cpu", copy=True).numpy()
        return cls(dtype_of(local), tuple(tensor.shape), tuple(local.shape), flat)

    def write_to(self, tensor: Tensor) -> None:
        """Write the rows to the same rank's part of a tensor of this shape and dtype."""
        data = self.data if self.data.flags.writeable else self.data.copy()  # Ray's objects are read-only
        local_part(tensor).copy_(torch.from_numpy(data).view(getattr(torch, self.dtype)).view(self.shape))


@dataclass(frozen=True)
class Snapshot:
    """The training state of one rank of so many, which are dealt in order to replicas of the sharded model."""

    rank: int
    ranks: int
    optimizer_steps: int
    """Optimizer steps that were taken."""
    shards: dict[str, HostShard]
    """By name, see `StateTensors`."""
    random: dict[str, Any]
    """See `random_state`."""
    replicas: int = 1

    @property
    def nbytes(self) -> int:
        """Size of the tensors in bytes."""
        return sum(shard.data.nbytes for shard in self.shards.values())


def take_snapshot(tensors: StateTensors, *, optimizer_steps: int, rank: int, ranks: int, replicas: int = 1) -> Snapshot:
    """Copy the training state of this rank. Not a collective."""
    shards = {name: HostShard.copy_of(tensor) for name, tensor in tensors.items()}
    return Snapshot(rank, ranks, optimizer_steps, shards, random_state(), replicas)


def restore_snapshot(snapshot: Snapshot, tensors: StateTensors, *, rank: int, ranks: int, replicas: int = 1) -> int:
    """Write a snapshot into the live tensors of the same rank, and return its count of optimizer steps.

    Raises:
        ModelError: it is of another rank, of another number of ranks or replicas, or of another model. Nothing is
            changed then.
    """
    if (snapshot.rank, snapshot.ranks, snapshot.replicas) != (rank, ranks, replicas):
        there = _place(snapshot.rank, snapshot.ranks, snapshot.replicas)
        raise ModelError(
            f"a snapshot of {there} cannot be restored on {_place(rank, ranks, replicas)}; load a checkpoint instead"
        )
    ours = {name: (dtype_of(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()}
    theirs = {name: (shard.dtype, shard.whole) for name, shard in snapshot.shards.items()}
    if differ := sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name)):
        raise ModelError(f"the snapshot is of another model or of other trainer settings: {differ[0]} differs")
    for name, tensor in tensors.items():
        snapshot.shards[name].write_to(tensor)
    set_random_state(snapshot.random)
    return snapshot.optimizer_steps


def _place(rank: int, ranks: int, replicas: int) -> str:
    return f"rank {rank} of {ranks}" + (f" in {replicas} replicas" if replicas > 1 else "")


def state_tensors(parameters: Sequence[tuple[str, Tensor]], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The live tensors that an update changes, in one order on every rank.

    Args:
        parameters: names and sharded parameters of what is trained.
        optimizer: of them.
    """
    weights = {f"model/{name}": parameter.detach() for name, parameter in parameters}
    return weights | dict(_optimizer_states(parameters, optimizer))


def _optimizer_states(
    parameters: Sequence[tuple[str, Tensor]], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in parameters:
        for kind, state in sorted(optimizer.state[parameter].items()):
            yield f"{kind}/{name}", state


def size_of(tensors: StateTensors) -> int:
    """Bytes of this rank's parts."""
    return sum(local_part(tensor).nbytes for tensor in tensors.values())


def local_part(tensor: Tensor) -> Tensor:
    """The rows of a sharded tensor that this process holds; any other tensor itself.

    Raises:
        ValueError: the tensor is sharded otherwise than by rows, over the ranks of each replica.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    if not dealt_by_rows(tensor):
        raise ValueError(f"a tensor with placements {tensor.placements} is not sharded by rows")
    local: Tensor = tensor.to_local()
    return local


def dealt_by_rows(tensor: Tensor) -> bool:
    """Whether the r-th rank of every replica holds the r-th run of rows, as FSDP2 shards: a run of it laid flat."""
    return isinstance(tensor, DTensor) and tensor.placements in ((Shard(0),), (Replicate(), Shard(0)))


def dtype_of(tensor: Tensor) -> str:
    """The name that torch has for a tensor's type, such as "float32"."""
    return str(tensor.dtype).removeprefix("torch.")
