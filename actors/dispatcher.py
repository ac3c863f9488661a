"""One request at a time: to an engine and its rollouts to a verifier, or to the bank. It never holds a token.

A worker that dies in the middle costs time and nothing else: seeds are functions of the request, so that another
engine samples the same rollouts, and another verifier or another process of the bank goes on from where it was. The
driver starts what died again (`actors.graph`); until it does, requests wait for workers that are there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import ray

from actors.bank_client import BankClient
from actors.calls import GONE, OBJECT_GONE
from actors.request_batch import RequestBatch, ScoredSet
from s2l_ray.errors import EngineAsleepError, EngineDiedError, StaleWeightsError, StepTimeoutError
from s2l_ray.kinds import PoolName, Source
from s2l_ray.rollouts.dispatch import PooledWorker, WorkerPool
from s2l_ray.rollouts.records import Period, SetReport
from s2l_ray.rollouts.requests import ExplorerRequest, SampleRequest
from s2l_ray.timing.work_log import WorkLog

CHECKS = 3
"""Verifiers that a set is given to, one after the other, before its answers count as timed out."""
STALE_ATTEMPTS = 3
"""Engines that may refuse a request for their weight version: a weight sync can begin while it is on its way."""
ASLEEP_S = 0.1
"""Until a request that met a sleeping engine is tried again: it may have been on its way when engines fell asleep."""


@dataclass(frozen=True)
class Sampled:
    """A sampled rollout set by reference."""

    rollouts: ray.ObjectRef
    period: Period | None
    activity: tuple[str, str, int]


class Dispatcher:
    """The pools of engines and verifiers, and the bank, as requests see them.

    Args:
        engines: by source.
        verifiers: actors, by number.
        bank: holds recorded explorer rollouts.
        reads: whether rollouts that the bank holds are used instead of sampling them.
        records: whether what the explorer samples is recorded in the bank.
        timeout_s: bound on waiting for an engine that retires.
    """

    def __init__(
        self,
        engines: dict[Source, WorkerPool],
        verifiers: dict[int, Any],
        bank: BankClient,
        reads: bool,
        records: bool,
        timeout_s: float,
    ) -> None:
        self.engines = engines
        self.verifiers = WorkerPool(verifiers)
        self.bank = bank
        self.work = WorkLog()
        self._reads, self._records = reads, records
        self._timeout_s = timeout_s
        self._suspects: set[tuple[PoolName, int]] = set()
        self._redone = 0

    def pool(self, name: PoolName) -> WorkerPool:
        """The pool of this name."""
        return self.verifiers if name == "verifier" else self.engines[name]

    def take_suspects(self) -> list[tuple[PoolName, int]]:
        """Workers that failed since the last call. They get nothing more; the driver is to replace them."""
        suspects, self._suspects = sorted(self._suspects), set()
        return suspects

    def drop(self, name: PoolName, number: int) -> None:
        """Forget a worker that is gone, and that the driver replaces."""
        self.pool(name).remove(number)
        self._suspects.discard((name, number))

    def take_redone(self) -> int:
        """How many requests and checks another worker had to do again since the last call."""
        redone, self._redone = self._redone, 0
        return redone

    async def explore(self, request: ExplorerRequest, batch: RequestBatch) -> ScoredSet:
        """The rollouts from the bank if it has them, else from an engine."""
        if self._reads and (await self.bank.covers([request]))[0]:
            part = await self._from_bank(request)
            batch.banked[request.prompt_id] = request.count
            return part
        while True:
            part = await self.roll_out(request, batch)
            try:
                if self._records:
                    await self.bank.record(request, part.scored)
                return part
            except OBJECT_GONE:
                self._redone += 1  # the rollouts are gone with the node that held them

    async def retire(self, source: Source, number: int) -> None:
        """Give an engine no more requests and return once those it has are done.

        Raises:
            StepTimeoutError: they are not within the bound.
        """
        member = self.engines[source].remove(number)
        if member is None:
            return
        try:
            await asyncio.wait_for(member.idle.wait(), self._timeout_s)
        except TimeoutError as error:
            raise StepTimeoutError(
                f"{source} engine {number} still had {member.load} rollouts to sample after {self._timeout_s:.0f} s "
                "(cluster.step_timeout_s)"
            ) from error

    async def _from_bank(self, request: ExplorerRequest) -> ScoredSet:
        begin = time.time()
        scored, report = await self.bank.read(request)
        self.work.note(("bank", "read", request.step), Period(begin, time.time()))
        return ScoredSet(scored, report)

    async def roll_out(self, request: SampleRequest, batch: RequestBatch, oldest: int | None = None) -> ScoredSet:
        """Sample, then verify; the rollouts go from engine to verifier to object store without passing through here.

        Args:
            oldest: lowest weight version that may sample the request; None: any.
        """
        while True:
            sampled = await self._sample(request, batch, oldest)
            part = await self._verify(request, sampled)
            if part is not None:
                self.work.note(sampled.activity, sampled.period)
                return part
            self._redone += 1  # the rollouts are gone with the node that held them

    async def _sample(self, request: SampleRequest, batch: RequestBatch, oldest: int | None) -> Sampled:
        """Sample a request, on another engine if one dies."""
        pool, refused = self.engines[request.source], 0
        while True:
            engine = await pool.take(request.count, request.step, oldest)
            batch.began()
            try:
                return await self._sample_on(engine, request)
            except (*GONE, EngineDiedError):
                self._suspect(request.source, engine)
            except EngineAsleepError:
                await asyncio.sleep(ASLEEP_S)
                continue  # nothing is done again: it was not begun
            except StaleWeightsError:
                refused += 1
                if refused == STALE_ATTEMPTS:
                    raise
            finally:
                pool.give_back(engine, request.count)
            self._redone += 1

    async def _sample_on(self, engine: PooledWorker, request: SampleRequest) -> Sampled:
        name = "explore" if request.source == "explorer" else "generate"
        activity = (f"{request.source} {engine.number}", name, request.step)
        version = self.engines[request.source].version
        sent = request if isinstance(request, ExplorerRequest) else request.at_version(version)
        with self.work.under_way_in(activity, request.prompt_id):
            rollouts, period = engine.worker.sample.remote(sent)
            try:
                return Sampled(rollouts, await period, activity)
            except asyncio.CancelledError:
                ray.cancel(rollouts)
                raise

    async def _verify(self, request: SampleRequest, sampled: Sampled) -> ScoredSet | None:
        """Have a set checked, by another verifier if one dies; after CHECKS of them its answers count as timed out.

        Returns:
            None: the rollouts are gone.
        """
        checks = 0
        while True:
            verifier = await self.verifiers.take(request.count, request.step)
            method = verifier.worker.verify if checks < CHECKS else verifier.worker.give_up
            try:
                scored, report = method.remote(sampled.rollouts)
                return self._verified(verifier, request, scored, await report)
            except OBJECT_GONE:
                return None
            except GONE:
                self._suspect("verifier", verifier)
                checks += 1
            finally:
                self.verifiers.give_back(verifier, request.count)
            self._redone += 1

    def _verified(
        self, verifier: PooledWorker, request: SampleRequest, scored: ray.ObjectRef, report: SetReport
    ) -> ScoredSet:
        self.work.note((f"verifier {verifier.number}", "verify", request.step), report.verified)
        return ScoredSet(scored, report)

    def _suspect(self, name: PoolName, worker: PooledWorker) -> None:
        """Give a worker that failed nothing more, and have the driver replace it."""
        if self.pool(name).discard(worker):
            self._suspects.add((name, worker.number))
