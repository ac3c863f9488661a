"""The trainer's ranks as a process group: start, and reductions of host numbers."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from s2l_ray.weights.rendezvous import SecretStore, check_members


def start_process_group(
    device: str, *, rank: int, world_size: int, store: Store | None, timeout_s: float, replicas: int = 1
) -> tuple[DeviceMesh, torch.device]:
    """Join the group and return the mesh over all its ranks and this rank's device.

    With replicas the mesh is [replicate, shard], so that neighbouring ranks share one copy; else it has one dimension.

    On CUDA the group also has gloo, for numbers that live on the host. A rank that dies makes the others' collectives
    raise after `timeout_s`.

    Args:
        store: where the ranks meet (`s2l_ray.weights.rendezvous`); None with a single rank.
        replicas: divides world_size.
    """
    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())  # an actor that is given one GPU sees only that one
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
        store=_held(store),
    )
    if isinstance(store, SecretStore):  # by gloo, on CUDA too: NCCL's connections ask for the random part of its id
        check_members(dist.all_to_all_single, store, "trainer", rank, world_size)
    here = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")
    if replicas == 1:
        return init_device_mesh(device, (world_size,)), here
    shape, names = (replicas, world_size // replicas), ("replicate", "shard")
    mesh = init_device_mesh(device, shape, mesh_dim_names=names)
    for group in mesh.get_all_groups():  # which begin with torch's own bound
        distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)
    return mesh, here


def is_broken(error: BaseException) -> bool:
    """Whether a collective failed because another rank, or the connection to it, is gone or stands still.

    torch raises a RuntimeError with gloo's message for its gloo groups, and a DistError for the others.
    """
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


_stores: list[Store] = []
"""Of this process's groups. torch keeps only the half of a store that is in C++, which does nothing without ours."""


def _held(store: Store | None) -> Store:
    _stores.append(HashStore() if store is None else store)
    return _stores[-1]


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum of a CPU tensor over all ranks, in place."""
    dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def all_reduce_max(values: torch.Tensor) -> torch.Tensor:
    """Element-wise maximum of a CPU tensor over all ranks, in place."""
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered from all ranks (a collective then); any other tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
