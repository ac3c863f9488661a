"""The trainer's end of a broadcast. One subclass per kind of broadcast group; needs torch only."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from typing import Any

from torch.distributed import TCPStore

from s2l_ray.errors import BroadcastError
from s2l_ray.rendezvous import listen, open_store
from s2l_ray.weights.buckets import WeightSpec, WeightStream


class GroupSender(ABC):
    """Broadcasts the trainer's weights to every worker of some learner engines.

    Lives on every trainer rank: all ranks walk the weight stream, since gathering FSDP shards is a collective, but only
    rank 0 holds the broadcast group and sends. A group that failed once is left; `listen` and `form` make the next.

    Args:
        specs: what the stream yields.
        rank: trainer rank.
        host: address of this machine that the engines can reach.
        timeout_s: bound on forming a group and on a whole broadcast.
    """

    def __init__(self, specs: list[WeightSpec], rank: int, host: str, timeout_s: float) -> None:
        self._specs = specs
        self._rank = rank
        self._host = host
        self._timeout_s = timeout_s
        self._listener: socket.socket | None = None
        self._group: Any = None

    def listen(self) -> tuple[str, int]:
        """Rank 0: leave the present group. Returns where the receivers of the next one find its store."""
        self.close()
        self._listener = listen(self._host)
        return self._host, self._listener.getsockname()[1]

    def form(self, group: str, size: int) -> None:
        """Rank 0: form `group` of this process and `size` - 1 workers. After `listen`.

        Raises:
            BroadcastError: not all of them came within the timeout.
        """
        listener, self._listener = self._listener, None
        try:
            store = open_store(self._host, listener.getsockname()[1], self._timeout_s, listener)
            self._group = self._join(store, group, size)
        except (RuntimeError, TimeoutError) as error:
            raise BroadcastError(f"broadcast group {group} of {size} did not form: {error}") from error

    def send(self, weights: WeightStream) -> int:
        """Walk the stream once; on rank 0 broadcast it. Returns the bytes of the weights.

        Raises:
            BroadcastError: a receiver is gone, or did not take part within the timeout. The group is left.
            ValueError: the stream is not what was declared.
        """
        try:
            if self._rank == 0:
                self._broadcast(weights)
        except Exception as error:
            self.close()  # first: receivers that still wait for data learn of it from the closed connections
            if isinstance(error, RuntimeError | TimeoutError):
                raise BroadcastError(f"the broadcast failed: {error}") from error
            raise
        finally:
            for _ in weights:  # a collective: the other ranks walk on to the end
                pass
        return sum(spec.nbytes for spec in self._specs)

    def close(self) -> None:
        """Leave the group; nobody waits for anybody."""
        if self._group is not None:
            self._leave()
            self._group = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @abstractmethod
    def _join(self, store: TCPStore, group: str, size: int) -> Any:
        """Member 0 of the new group; bounded."""

    @abstractmethod
    def _broadcast(self, weights: WeightStream) -> None:
        """Send the stream to the group; bounded. RuntimeError or TimeoutError when a member does not take part."""

    @abstractmethod
    def _leave(self) -> None: ...
