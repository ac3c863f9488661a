"""A pool of workers that hands requests to the least loaded one. Plain asyncio; the workers may be anything."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any


class PooledWorker:
    """A worker and the rollouts it has outstanding."""

    def __init__(self, number: int, worker: Any) -> None:
        self.number = number
        self.worker = worker
        self.load = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def _add(self, rollouts: int) -> None:
        self.load += rollouts
        if self.load:
            self.idle.clear()
        else:
            self.idle.set()


@dataclass(order=True)
class _Waiter:
    priority: int
    arrival: int
    rollouts: int = field(compare=False)
    oldest_version: int | None = field(compare=False)
    turn: asyncio.Future[PooledWorker] = field(compare=False)


class WorkerPool:
    """Workers of one kind, by number. Work goes to the one with the least outstanding, the first of equals.

    A worker gets no more than its capacity, so that the next request goes to whoever is free first, and requests of an
    earlier step overtake those of a later one that wait. A pool with a weight version can be held while weights are
    synced: nothing is given out then.

    Args:
        workers: by number.
        capacity: rollouts that one worker may have outstanding; a single request may exceed it. None: no limit.
    """

    def __init__(self, workers: dict[int, Any], capacity: int | None = None) -> None:
        self._members = {number: PooledWorker(number, worker) for number, worker in sorted(workers.items())}
        self._capacity = capacity
        self._waiting: list[_Waiter] = []
        self._arrivals = itertools.count()
        self._held = False
        self.version: int | None = None
        """Weight version that the workers hold; None: they have none, or theirs never changes."""

    async def take(self, rollouts: int, priority: int, oldest_version: int | None = None) -> PooledWorker:
        """Wait for this request's turn; returns the worker that is to do it. `give_back` it afterwards.

        Args:
            priority: the lowest goes first; of equals the first to come.
            oldest_version: wait until the workers hold this version or a later one.
        """
        turn: asyncio.Future[PooledWorker] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, _Waiter(priority, next(self._arrivals), rollouts, oldest_version, turn))
        self._serve()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given a worker and cancelled in the same moment
                self.give_back(turn.result(), rollouts)
            raise

    def give_back(self, member: PooledWorker, rollouts: int) -> None:
        """The worker is done with them."""
        member._add(-rollouts)
        self._serve()

    def hold(self) -> None:
        """Give nothing out until `release`."""
        self._held = True

    def release(self, version: int | None) -> None:
        """The workers hold `version` from now on."""
        self._held = False
        self.version = version
        self._serve()

    def add(self, number: int, worker: Any) -> None:
        """One more worker."""
        self._members[number] = PooledWorker(number, worker)
        self._serve()

    def remove(self, number: int) -> PooledWorker | None:
        """It gets nothing more; what it has it may finish (`PooledWorker.idle`). None: it was not there."""
        return self._members.pop(number, None)

    def discard(self, member: PooledWorker) -> bool:
        """Give a worker nothing more. False: it had been removed, or another one has taken its number."""
        if self._members.get(member.number) is not member:
            return False
        del self._members[member.number]
        return True

    def _serve(self) -> None:
        while self._waiting and not self._held:
            first = self._waiting[0]
            if first.turn.cancelled():
                heapq.heappop(self._waiting)
                continue
            member = self._free(first.rollouts)
            if member is None or not self._new_enough(first.oldest_version):
                return
            heapq.heappop(self._waiting)
            member._add(first.rollouts)
            first.turn.set_result(member)

    def _free(self, rollouts: int) -> PooledWorker | None:
        member = min(self._members.values(), key=lambda m: m.load, default=None)
        if member is None or self._capacity is None or member.load == 0:
            return member
        return member if member.load + rollouts <= self._capacity else None

    def _new_enough(self, oldest: int | None) -> bool:
        return oldest is None or (self.version is not None and self.version >= oldest)
