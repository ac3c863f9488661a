"""The trainer's end of a gloo broadcast, for engines on CPUs and on logical GPUs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import cycle

import torch
from torch.distributed import Work

from s2l_ray.weights.buckets import Bucket, WeightSource, bucket_bytes, flat_views, plan_buckets
from s2l_ray.weights.rendezvous import BroadcastGroup, SecretStore
from s2l_ray.weights.sender import GroupSender
from s2l_ray.weights.sizes import BUCKET_BYTES, BUCKETS_HELD


class GlooSender(GroupSender):
    """Packs the weights into buckets in host memory, one while the one before is on the wire.

    The buffers stay between weight syncs, since memory that is mapped already is filled several times as fast.
    """

    @cached_property
    def _buckets(self) -> list[Bucket]:
        return plan_buckets(self._specs)

    @cached_property
    def _buffers(self) -> list[torch.Tensor]:
        size = min(BUCKET_BYTES, sum(spec.nbytes for spec in self._specs))
        return [torch.empty(size, dtype=torch.uint8) for _ in self._buckets[:BUCKETS_HELD]]

    def _join(self, store: SecretStore, group: str, size: int) -> BroadcastGroup:
        return BroadcastGroup(store, group, 0, size, self._host, self._timeout_s)

    def walk(self, weights: WeightSource) -> Iterator[torch.Tensor | None]:
        """The weights packed into buckets, uint8 [bucket bytes]; None on ranks other than 0, which send nothing."""
        if self._rank != 0:
            for bucket in self._buckets:
                weights.read(bucket, None)
                yield None
            return
        for bucket, buffer in zip(self._buckets, cycle(self._buffers), strict=False):
            packed = buffer[: bucket_bytes(bucket)]
            weights.read(bucket, flat_views(bucket, packed))
            yield packed

    def _broadcast(self, walk: Iterator[torch.Tensor]) -> float:
        deadline = time.monotonic() + self._timeout_s
        packed: torch.Tensor | None = next(walk)
        self._group.meet()
        begin = time.perf_counter()
        under_way: deque[Work] = deque()
        while packed is not None:
            under_way.append(self._group.start_broadcast(packed))
            if len(under_way) == BUCKETS_HELD:  # the oldest one's buffer is the next to be packed into
                under_way.popleft().wait()
            packed = next(walk, None)
            if time.monotonic() > deadline:
                raise TimeoutError(f"longer than {self._timeout_s:.0f} s (cluster.weight_sync_timeout_s)")
        for sending in under_way:
            sending.wait()
        return time.perf_counter() - begin

    def _leave(self) -> None:
        self._group.close()
