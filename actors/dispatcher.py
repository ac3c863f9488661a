"""One request at a time: to an engine and its rollouts to a verifier, or to the bank. It never holds a token."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray

from actors.request_batch import RequestBatch, ScoredSet
from s2l_ray.errors import StepTimeoutError
from s2l_ray.kinds import Source
from s2l_ray.rollouts.dispatch import WorkerPool
from s2l_ray.rollouts.records import Period
from s2l_ray.rollouts.requests import ExplorerRequest, SampleRequest
from s2l_ray.timing.work_log import WorkLog


class Dispatcher:
    """The pools of engines and verifiers, and the bank, as requests see them.

    Args:
        engines: by source.
        verifiers: actors.
        bank: actor that holds recorded explorer rollouts, or None.
        reads: whether rollouts that the bank holds are used instead of sampling them.
        records: whether what the explorer samples is recorded in the bank.
        timeout_s: bound on waiting for an engine that retires.
    """

    def __init__(
        self,
        engines: dict[Source, WorkerPool],
        verifiers: list[Any],
        bank: Any | None,
        reads: bool,
        records: bool,
        timeout_s: float,
    ) -> None:
        self.engines = engines
        self.work = WorkLog()
        self._verifiers = WorkerPool(dict(enumerate(verifiers)))
        self._read_bank = bank if reads else None
        self._write_bank = bank if records else None
        self._timeout_s = timeout_s

    async def explore(self, request: ExplorerRequest, batch: RequestBatch) -> ScoredSet:
        """The rollouts from the bank if it has them, else from an engine."""
        if self._read_bank is not None and (await self._read_bank.covers.remote([request]))[0]:
            part = await self._from_bank(self._read_bank, request)
            batch.banked += request.count
            return part
        part = await self.roll_out(request, batch)
        if self._write_bank is not None:
            await self._write_bank.record.remote(request, part.scored)
        return part

    async def retire(self, source: Source, number: int) -> None:
        """Give an engine no more requests and return once those it has are done.

        Raises:
            StepTimeoutError: they are not within the bound.
        """
        member = self.engines[source].remove(number)
        try:
            await asyncio.wait_for(member.idle.wait(), self._timeout_s)
        except TimeoutError as error:
            raise StepTimeoutError(
                f"{source} engine {number} still had {member.load} rollouts to sample after {self._timeout_s:.0f} s "
                "(cluster.step_timeout_s)"
            ) from error

    async def _from_bank(self, bank: Any, request: ExplorerRequest) -> ScoredSet:
        begin = time.time()
        scored, report = bank.read.remote(request)
        part = ScoredSet(scored, await report)
        self.work.note(("bank", "read", request.step), Period(begin, time.time()))
        return part

    async def roll_out(self, request: SampleRequest, batch: RequestBatch, oldest: int | None = None) -> ScoredSet:
        """Sample, then verify; the rollouts go from engine to verifier to object store without passing through here.

        Args:
            oldest: lowest weight version that may sample the request; None: any.
        """
        pool = self.engines[request.source]
        engine = await pool.take(request.count, request.step, oldest)
        verifier = await self._verifiers.take(request.count, request.step)
        batch.began()
        name = "explore" if request.source == "explorer" else "generate"
        activity = (f"{request.source} {engine.number}", name, request.step)
        sampled = None
        try:
            with self.work.under_way_in(activity, request.prompt_id):
                sent = request if isinstance(request, ExplorerRequest) else request.at_version(pool.version)
                sampled = engine.worker.sample.remote(sent)
                scored, report = verifier.worker.verify.remote(sampled)
                part = ScoredSet(scored, await report)
        except asyncio.CancelledError:
            if sampled is not None:
                ray.cancel(sampled)
            raise
        finally:
            pool.give_back(engine, request.count)
            self._verifiers.give_back(verifier, request.count)
        self.work.note(activity, part.report.sampled)
        self.work.note((f"verifier {verifier.number}", "verify", request.step), part.report.verified)
        return part
