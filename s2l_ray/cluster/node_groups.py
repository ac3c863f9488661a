"""Worker groups from an inventory: one for each kind of node, with sizes that the pods declare."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.cluster.infra import Infra, Pods
from s2l_ray.cluster.names import dns_label
from s2l_ray.config import Config
from s2l_ray.errors import ConfigError, PlacementError
from s2l_ray.placement.gpu_types import LOGICAL
from s2l_ray.placement.inventory import GB, Inventory, NodeGroup
from s2l_ray.placement.plan import Plan

BYTES_PER_TOKEN = 16
"""Upper bound of a rollout's token in the object store: id, log-prob and text."""
PROMPTS_BYTES = 256 * 10**6
"""For prompts, results of calls and what else a run keeps in the object store."""
STORE_SHARE = 0.3
"""Most of a node's memory that the object store has by default, as Ray's own default."""
RAY_BYTES = 5 * 10**8
"""Memory of Ray's own processes on a worker."""
MB = 10**6


@dataclass(frozen=True)
class WorkerGroup:
    """Equal worker pods, each one node of the plan."""

    name: str
    replicas: int
    cpus: int
    memory: int
    """Bytes."""
    gpus: int
    logical: bool
    """The GPUs are counted by Ray alone."""
    object_store: int
    shm: int
    """Bytes of /dev/shm, part of the memory."""
    pods: Pods


def by_kind(inventory: Inventory) -> Inventory:
    """The inventory with equal nodes in one group, in the order in which each kind is first named.

    A plan numbers nodes in this order, so that what is emitted is the plan of what is carried.
    """
    counts: dict[NodeGroup, int] = {}
    for group in inventory.nodes:
        kind = group.model_copy(update={"count": 1})
        counts[kind] = counts.get(kind, 0) + group.count
    nodes = tuple(kind.model_copy(update={"count": count}) for kind, count in counts.items())
    return inventory.model_copy(update={"nodes": nodes})


def worker_groups(inventory: Inventory, config: Config, infra: Infra) -> list[WorkerGroup]:
    """A worker group for each group of an inventory that is `by_kind`.

    Raises:
        PlacementError: a node has CPUs that Kubernetes and Ray count differently, or /dev/shm cannot hold the store.
        ConfigError: the infra file names a worker group that there is not.
    """
    names = _names(inventory)
    if unknown := [name for name in infra.workers.groups if name not in names]:
        raise ConfigError(
            f"infra file: workers.groups.{unknown[0]}: there is no such worker group; the plan has {', '.join(names)}"
        )
    return [_group(name, node, config, infra) for name, node in zip(names, inventory.nodes, strict=True)]


def _names(inventory: Inventory) -> list[str]:
    """Such as gpu-8-h100-80gb and cpu-32, with a number where two kinds would have one name."""
    names: list[str] = []
    for group in inventory.nodes:
        spec = group.spec()
        name = dns_label(f"gpu-{spec.gpus}-{spec.gpu}" if spec.gpus else f"cpu-{spec.cpus:g}")
        same = sum(known == name or known.startswith(f"{name}-x") for known in names)
        names.append(f"{name}-x{same + 1}" if same else name)
    return names


def _group(name: str, node: NodeGroup, config: Config, infra: Infra) -> WorkerGroup:
    spec, pods = node.spec(), infra.workers.of(name)
    if spec.cpus != int(spec.cpus):
        raise PlacementError(
            f"worker group {name}: {spec.cpus:g} CPUs; Ray on Kubernetes counts whole ones: give its nodes whole cpus"
        )
    memory = spec.memory_bytes
    store = int(pods.object_store_gb * GB) if pods.object_store_gb else default_store(config, memory)
    shm = int(pods.shm_gb * GB) if pods.shm_gb else store + (spec.gpus * GB if spec.real_gpus else 250 * MB)
    check_shm(name, store, shm, memory)
    return WorkerGroup(name, node.count, int(spec.cpus), memory, spec.gpus, spec.gpu == LOGICAL, store, shm, pods)


def default_store(config: Config, memory: int) -> int:
    """Bytes for rollouts, in whole MB, at most a share of a node's memory.

    Rollouts that are prefetched, those of two steps, and those since the latest checkpoint, from which a trainer that
    loses a rank may do its updates again (recovery.snapshots).
    """
    rollout, recovery = config.rollout, config.recovery
    again = 0 if recovery.snapshots == "memory" or recovery.max_restarts == 0 else config.checkpoint.every
    step = rollout.prompts_per_step * rollout.group_size * rollout.max_tokens * BYTES_PER_TOKEN
    wanted = int(rollout.prefetch_gb * 2**30) + (2 + again) * step + PROMPTS_BYTES
    return min(wanted, int(STORE_SHARE * memory)) // MB * MB


def check_shm(name: str, store: int, shm: int, memory: int) -> None:
    """Refuse an object store that /dev/shm cannot hold, or a /dev/shm that the memory cannot.

    Raises:
        PlacementError: one of the two.
    """
    if store > shm:
        raise PlacementError(f"{name}: shm_gb ({shm / GB:g}) is less than the object store ({store / GB:g} GB)")
    if shm >= memory:
        raise PlacementError(
            f"{name}: shm_gb ({shm / GB:g}) leaves nothing of {memory / GB:g} GB of memory, of which /dev/shm is part"
        )


def check_host_memory(plan: Plan, groups: list[WorkerGroup]) -> None:
    """Refuse nodes whose actors and object store exceed their memory together. GPU plans do not say the host's.

    Raises:
        PlacementError: the first such node.
    """
    of_node = [group for group in groups for _ in range(group.replicas)]
    for load in (load for phase in plan.phases for load in phase.gpus if load.gpu is None):
        group = of_node[load.node]
        needed = load.used_bytes + group.object_store + RAY_BYTES
        if needed > group.memory:
            raise PlacementError(
                f"worker group {group.name}: {group.memory / GB:.1f} GB of memory are less than {needed / GB:.1f}: "
                f"actors {load.used_bytes / GB:.1f}, object store {group.object_store / GB:.1f}, Ray itself "
                f"{RAY_BYTES / GB:.1f}. Give the nodes more memory_gb, or lower workers.object_store_gb"
            )
