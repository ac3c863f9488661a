"""The trainer's end of a weight swap. Needs torch only."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import torch

from s2l_ray.rendezvous import BroadcastGroup, listen, open_store
from s2l_ray.weights.buckets import WeightSpec, pack, plan_buckets


class WeightSender:
    """Broadcasts versions of the trainer's weights to every worker of every learner engine.

    Lives on every trainer rank: all ranks walk the weight stream, since gathering FSDP shards is a collective, but only
    rank 0 holds the broadcast group and sends.
    """

    def __init__(self, specs: list[WeightSpec], rank: int, host: str, timeout_s: float) -> None:
        self._buckets = plan_buckets(specs)
        self._rank = rank
        self._host = host
        self._timeout_s = timeout_s
        self._listener: socket.socket | None = None
        self._group: BroadcastGroup | None = None

    def listen(self) -> tuple[str, int]:
        """Rank 0: where receivers find the store. Call before they connect."""
        self._listener = listen(self._host)
        return self._host, self._listener.getsockname()[1]

    def form_group(self, name: str, receivers: int) -> None:
        """Rank 0: wait, within the timeout, until `receivers` workers have joined group `name`."""
        port = self._listener.getsockname()[1]
        store = open_store(self._host, port, self._timeout_s, self._listener)
        self._group = BroadcastGroup(store, name, 0, receivers + 1, self._host, self._timeout_s)

    def send(self, weights: Iterator[tuple[str, torch.Tensor]]) -> int:
        """Walk the stream once; on rank 0 broadcast it. Returns the bytes of the weights.

        Raises:
            RuntimeError: a receiver is gone or not ready within the timeout.
        """
        sent = 0
        if self._rank != 0:
            return sum(tensor.nbytes for _, tensor in weights)
        for bucket in self._buckets:
            buffer = pack(bucket, weights)
            self._group.broadcast(buffer)
            sent += buffer.nbytes
        return sent

    def close(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
