"""How busy the nodes of the cluster are: an actor on each takes samples, and the driver asks without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.tracking.node_meter import NodeMeter


@ray.remote(num_cpus=0, max_restarts=0)
class Meter:
    """A `NodeMeter` behind Ray calls."""

    def __init__(self) -> None:
        self._meter = NodeMeter()

    def read(self, step: int) -> tuple[int, dict[str, float]]:
        """The step that it was asked at, and what `NodeMeter.read` says."""
        return step, self._meter.read()


class NodeMeters:
    """The meters of all nodes that are alive when it is made. Ray ends their actors with this object."""

    def __init__(self) -> None:
        self._meters = {node["NodeManagerHostname"]: _meter(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
        self._asked: dict[str, ray.ObjectRef] = {}

    def after(self, step: int) -> Iterator[tuple[int, dict[str, float]]]:
        """Ask every node at the end of a step, and give what earlier questions brought, as (step, metrics).

        A node that has not answered is not asked again; one that is gone is left out from then on. Nothing is waited
        for.
        """
        asked = list(self._asked.values())
        done = ray.wait(asked, num_returns=len(asked), timeout=0)[0] if asked else []
        for host in [host for host, ref in self._asked.items() if ref in done]:
            try:
                at, values = ray.get(self._asked.pop(host))
            except ray.exceptions.RayError:
                del self._meters[host]
                continue
            yield at, {f"system/{host}/{key}": value for key, value in values.items()}
        for host in self._meters.keys() - self._asked.keys():
            self._asked[host] = self._meters[host].read.remote(step)


def _meter(node_id: str) -> Any:
    kind: Any = Meter
    return kind.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote()
