"""Real Ray clusters of several nodes on loopback, whose GPUs are counted but not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import ray
from ray.cluster_utils import Cluster

from actors.private_ray import within
from s2l_ray.ray_bridge import on_loopback


@contextlib.contextmanager
def logical_cluster(gpus: Sequence[int], cpus: float = 4, **system: int) -> Iterator[Cluster]:
    """One node per entry, with so many logical GPUs; this process is connected to it.

    Args:
        system: settings of Ray's own.
    """
    with on_loopback(), within(300):
        nodes = [{"num_gpus": n, "num_cpus": cpus, "object_store_memory": 100 * 2**20} for n in gpus]
        head = {**nodes[0], "include_dashboard": False, "_system_config": system}
        cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        try:
            for node in nodes[1:]:
                cluster.add_node(**node)
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
