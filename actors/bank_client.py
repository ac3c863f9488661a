"""The bank as the scheduler calls it: a process of the bank that dies is replaced, and nothing recorded is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray

from actors.calls import GONE, OBJECT_GONE
from s2l_ray.bank.writer import Receipt
from s2l_ray.rollouts.records import SetReport
from s2l_ray.rollouts.requests import ExplorerRequest

T = TypeVar("T")


class BankClient:
    """Calls the bank's actor, and calls the next one again where it dies.

    Rollouts that were recorded and are not yet written are held here by reference, so that the next actor can be given
    them. Their number is bounded by what the bank gathers for a shard.

    Args:
        bank: actor, or None in a run without a bank.
    """

    def __init__(self, bank: Any | None) -> None:
        self._bank = bank
        self._there = asyncio.Event()
        self._there.set()
        self._unwritten: dict[int, tuple[ExplorerRequest, ray.ObjectRef]] = {}
        self.failed = False
        """Whether it has died and `replace` was not called since."""

    async def replace(self, bank: Any) -> None:
        """Another actor has taken the place of one that died: give it what that one had not written."""
        again, self._unwritten = list(self._unwritten.values()), {}
        self._bank, self.failed = bank, False
        self._there.set()
        await asyncio.gather(*[self._record_again(request, scored) for request, scored in again])

    async def covers(self, requests: list[ExplorerRequest]) -> list[bool]:
        """See `Bank.covers`."""
        found: list[bool] = await self._retried(lambda bank: bank.covers.remote(requests))
        return found

    async def read(self, request: ExplorerRequest) -> tuple[ray.ObjectRef, SetReport]:
        """See `Bank.read`; the rollouts by reference."""

        async def read(bank: Any) -> tuple[ray.ObjectRef, SetReport]:
            scored, report = bank.read.remote(request)
            return scored, await report

        return await self._retried(read)

    async def record(self, request: ExplorerRequest, scored: ray.ObjectRef) -> None:
        """See `Bank.record`."""
        receipt: Receipt = await self._retried(lambda bank: bank.record.remote(request, scored))
        if receipt.number > receipt.written:
            self._unwritten[receipt.number] = (request, scored)
        for number in [number for number in self._unwritten if number <= receipt.written]:
            del self._unwritten[number]

    async def _record_again(self, request: ExplorerRequest, scored: ray.ObjectRef) -> None:
        with contextlib.suppress(*OBJECT_GONE):  # they were on a node that is lost, too, and will be missing
            await self.record(request, scored)

    async def _retried(self, call: Callable[[Any], Awaitable[T]]) -> T:
        while True:
            await self._there.wait()
            bank = self._bank
            try:
                return await call(bank)
            except GONE:
                if bank is self._bank:
                    self.failed = True
                    self._there.clear()
