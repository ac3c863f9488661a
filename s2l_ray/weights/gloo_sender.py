"""The trainer's end of a gloo broadcast, for engines on CPUs and on logical GPUs."""

from __future__ import annotations

import time

from torch.distributed import TCPStore

from s2l_ray.rendezvous import BroadcastGroup
from s2l_ray.weights.buckets import WeightStream, pack, plan_buckets
from s2l_ray.weights.sender import GroupSender


class GlooSender(GroupSender):
    """Packs the weights into buckets in host memory."""

    def _join(self, store: TCPStore, group: str, size: int) -> BroadcastGroup:
        return BroadcastGroup(store, group, 0, size, self._host, self._timeout_s)

    def _broadcast(self, weights: WeightStream) -> None:
        deadline = time.monotonic() + self._timeout_s
        for bucket in plan_buckets(self._specs):
            self._group.broadcast(pack(bucket, weights))
            if time.monotonic() > deadline:
                raise TimeoutError(f"longer than {self._timeout_s:.0f} s (cluster.swap_timeout_s)")

    def _leave(self) -> None:
        self._group.close()
