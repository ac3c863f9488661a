"""The trainer's end of a broadcast. One subclass per kind of broadcast group; needs torch only."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from s2l_ray.errors import BroadcastError
from s2l_ray.machine.device_memory import give_back_cached
from s2l_ray.weights.buckets import WeightSource, WeightSpec
from s2l_ray.weights.rendezvous import Listener, Meeting, SecretStore, listen, open_store

T = TypeVar("T")


@dataclass(frozen=True)
class SendTimes:
    """The parts of one broadcast on one trainer rank, in seconds."""

    gather_s: float
    """Seconds spent gathering shards, casting and packing them; for the most part while something was on the wire. On
    GPUs the seconds until the kernels for it were queued."""
    broadcast_s: float
    """Seconds from the first byte to the last; 0 on ranks other than 0. Over gloo the clock starts when every member is
    ready to receive, over nccl when the trainer is, so there it includes waiting for engines that finish requests."""


class GroupSender(ABC):
    """Broadcasts the trainer's weights to every worker of some learner engines.

    Lives on every trainer rank: all ranks walk the weights, since gathering FSDP shards is a collective, but only
    rank 0 holds the broadcast group and sends. A group that failed once is left; `listen` and `form` make the next.

    Args:
        specs: what a source yields.
        rank: trainer rank.
        host: address of this machine that the engines can reach.
        timeout_s: bound on forming a group and on a whole broadcast.
    """

    def __init__(self, specs: list[WeightSpec], rank: int, host: str, timeout_s: float) -> None:
        self._specs = specs
        self._rank = rank
        self._host = host
        self._timeout_s = timeout_s
        self._listener: Listener | None = None
        self._group: Any = None

    def listen(self) -> Meeting:
        """Rank 0: leave the present group. Returns where the receivers of the next one find its store."""
        self.close()
        self._listener = listen(self._host)
        return self._listener.meeting

    def form(self, group: str, size: int) -> None:
        """Rank 0: form `group` of this process and `size` - 1 workers. After `listen`.

        Raises:
            BroadcastError: not all of them came within the timeout.
        """
        listener, self._listener = self._listener, None
        if listener is None:
            raise RuntimeError("`listen` comes before `form`")
        try:
            store = open_store(listener.meeting, self._timeout_s, listener)
            self._group = self._join(store, group, size)
        except (RuntimeError, TimeoutError) as error:
            raise BroadcastError(f"broadcast group {group} of {size} did not form: {error}") from error

    def send(self, weights: WeightSource) -> SendTimes:
        """Walk the weights once; on rank 0 broadcast them.

        Raises:
            BroadcastError: a receiver is gone, or did not take part within the timeout. The group is left.
            ValueError: the weights are not what was declared.
            Exception: what walking the weights raised. The ranks are out of step then, and cannot walk again.
        """
        walk = _Timed(self.walk(weights))
        broadcast_s = 0.0
        try:
            if self._rank == 0:
                broadcast_s = self._broadcast(walk)
        except Exception as error:
            self.close()  # first: receivers that still wait for data learn of it from the closed connections
            if not walk.failed and isinstance(error, RuntimeError | TimeoutError):
                raise BroadcastError(f"the broadcast failed: {error}") from error
            raise
        finally:
            for _ in walk:  # a collective: the other ranks walk on to the end
                pass
            give_back_cached()  # the buffers of chunks
        return SendTimes(walk.seconds, broadcast_s)

    def close(self) -> None:
        """Leave the group; nobody waits for anybody."""
        if self._group is not None:
            self._leave()
            self._group = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @abstractmethod
    def _join(self, store: SecretStore, group: str, size: int) -> Any:
        """Member 0 of the new group; bounded."""

    @abstractmethod
    def walk(self, weights: WeightSource) -> Iterator[Any]:
        """The weights, in the parts that are sent. Each step is a collective: every rank walks to the end."""

    @abstractmethod
    def _broadcast(self, walk: Iterator[Any]) -> float:
        """Send the parts to the group, within the bound; returns the seconds from the first byte to the last.

        Raises:
            RuntimeError, TimeoutError: a member does not take part.
        """

    @abstractmethod
    def _leave(self) -> None: ...


class ChunkSender(ABC):
    """Shows the trainer's weights, chunk by chunk, to the workers on this trainer rank's device.

    Lives on every trainer rank; all ranks walk the same stream, since gathering FSDP shards is a collective.

    Args:
        specs: what a source yields.
    """

    def __init__(self, specs: list[WeightSpec]) -> None:
        self._specs = specs

    @abstractmethod
    def begin(self, weights: WeightSource) -> None:
        """Start over, with the weights of one version."""

    @abstractmethod
    def next_chunk(self) -> dict[str, Any] | None:
        """The next chunk as this rank's part of `messages.merge_chunks`; None after the last. A collective."""

    @abstractmethod
    def end(self) -> None:
        """Give the buffer's memory back, once the workers have finished the weight sync."""


class _Timed(Iterator[T]):
    """An iterator that knows how long its steps took in all, in seconds."""

    def __init__(self, inner: Iterator[T]) -> None:
        self._inner = inner
        self.seconds = 0.0
        self.failed = False
        """Whether a step raised, which ends the iterator."""

    def __next__(self) -> T:
        begin = time.perf_counter()
        try:
            return next(self._inner)
        except StopIteration:
            raise
        except Exception:
            self.failed = True
            raise
        finally:
            self.seconds += time.perf_counter() - begin
