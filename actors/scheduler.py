"""Sends the requests of every step and hands out its groups as object refs. It never holds a token.

Explorer requests of coming steps are prefetched as far ahead as the buffer allows: the explorer is frozen, so its
rollouts cannot become stale while the trainer works. Learner requests go out when weights that are new enough for
their step are in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray

from actors.bank_client import BankClient
from actors.batch import Group, StepBatch, assign
from actors.dispatcher import Dispatcher
from actors.liveness import Heartbeat
from actors.request_batch import RequestBatch, ScoredSet, wait_for
from actors.scheduler_settings import SchedulerProgress, SchedulerSettings
from s2l_ray.errors import GroupError
from s2l_ray.kinds import PoolName, Source
from s2l_ray.rollouts.dispatch import WorkerPool
from s2l_ray.rollouts.prefetch import Prefetch
from s2l_ray.rollouts.records import RolloutSummary
from s2l_ray.rollouts.requests import EvaluationRequest, ExplorerRequest, LearnerRequest
from s2l_ray.rollouts.step_planner import (
    check_group,
    solved_by_explorer_only,
    staleness,
    without_variance,
)


@ray.remote(num_cpus=0, max_restarts=0)
class Scheduler:
    """Owns the pools of engines and verifiers. There is one in a run.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: SchedulerSettings) -> None:
        self._calls = 0
        self._begin(settings)

    def _begin(self, settings: SchedulerSettings) -> None:
        self._planner = settings.planner
        self._steps = settings.steps
        self._pipeline = pipeline = settings.pipeline
        self._refill_rounds = settings.refill_rounds
        self._ranks = settings.ranks
        self._mini_batch_prompts = settings.mini_batch_prompts
        self._timeout_s = settings.timeout_s
        self._engines = {
            source: WorkerPool(members, pipeline.capacity[source]) for source, members in settings.engines.items()
        }
        self._dispatcher = Dispatcher(
            self._engines,
            settings.verifiers,
            BankClient(settings.bank),
            settings.reads,
            settings.records,
            settings.timeout_s,
        )
        if settings.version >= 0:
            self._engines["learner"].release(settings.version)
        self._awaited: list[RequestBatch] = []
        self._forget()
        self._observe(settings.observed)

    def _forget(self) -> None:
        pipeline = self._pipeline
        self._batches: dict[tuple[int, Source], RequestBatch] = defaultdict(RequestBatch)
        self._prefetched = Prefetch(
            lambda step: self._planner.explorer_requests(step, self._sampled_prompts(step)),
            self._steps,
            pipeline.prefetch_steps,
            pipeline.prefetch_bytes,
            pipeline.bytes_per_rollout,
        )

    # ---- steps ------------------------------------------------------------------------------------------------------

    async def collect(self, step: int) -> StepBatch:
        """All groups of `step`, whole and verified.

        Args:
            step: 1-based.

        Raises:
            GroupError: a group is not exactly G rollouts of its prompt.
            StepTimeoutError: not everything came back in time; the message counts what is missing by source.
        """
        with self._under_way():
            return await self._collect(step)

    async def _collect(self, step: int) -> StepBatch:
        for coming in range(step, min(step + self._pipeline.max_staleness, self._steps) + 1):
            self._request_learner(coming)
        self._start_explorer(self._prefetched.begin(step))
        self._fill_prefetch_buffer()
        whole = await self._whole(step)
        stragglers = [prompt_id for prompt_id in self._sampled_prompts(step) if prompt_id not in whole]
        groups = [self._group(step, prompt_id, parts) for prompt_id, parts in whole.items()]
        groups, refilled = await self._refill(step, groups)
        compared = solved_by_explorer_only(group.rows for group in groups)
        self._planner.schedule.observe(step, *compared)
        explored, learned = (self._batches.pop((step, source), RequestBatch()) for source in ("explorer", "learner"))
        spans = {"explore": explored.span, "learner_generate": learned.span}
        return StepBatch(
            split=self._planner.schedule.split(step),
            prompts=[group.prompt_id for group in groups],
            assignment=assign(groups, self._ranks, self._mini_batch_prompts),
            summaries=[row for group in groups for row in group.rows],
            spans={name: span for name, span in spans.items() if span is not None},
            work=self._dispatcher.work.take(),
            under_way=self._dispatcher.work.under_way(),
            refilled=refilled,
            explorer_only=compared,
            stragglers=stragglers,
            stale_dropped=learned.stale,
            banked=sum(explored.banked.values()),
            banked_prompts=frozenset(explored.banked),
            redone=self._dispatcher.take_redone(),
            prefetched_bytes=self._prefetched.held,
        )

    async def restore_schedule(self, observed: dict[int, tuple[int, int]]) -> None:
        """Cancel requests under way and give an adaptive schedule its measurements, when a run resumes or goes back.

        Args:
            observed: `solved_by_explorer_only` by step.
        """
        for batch in self._batches.values():
            batch.cancel()
        self._forget()
        self._observe(observed)

    def _observe(self, observed: Mapping[int, tuple[int, int]]) -> None:
        for step, compared in observed.items():
            self._planner.schedule.observe(step, *compared)

    async def rest(self) -> None:
        """A run is over: cancel every request, also inside the engines, and let go of what waited for them."""
        while batches := [batch for batch in (*self._batches.values(), *self._awaited) if not batch.is_done]:
            for batch in batches:
                batch.cancel()
            await asyncio.gather(*[task for batch in batches for task in batch.tasks.values()], return_exceptions=True)
        while self._calls:
            await asyncio.sleep(0)

    async def begin(self, settings: SchedulerSettings) -> None:
        """Serve another run, after `rest`: as a scheduler that is new does."""
        await self.rest()
        self._begin(settings)

    async def evaluate(self, prompt_ids: list[str], source: Source, samples: int) -> list[RolloutSummary]:
        """`samples` rollouts of every prompt with the evaluation settings; the same seeds at every call."""
        batch = RequestBatch()
        for prompt_id in prompt_ids:
            request = EvaluationRequest(prompt_id, source, samples, self._planner.seed)
            batch.add(prompt_id, self._dispatcher.roll_out(request, batch))
        with self._under_way():
            parts = await self._finish(EvaluationRequest.step, {source: batch})
        return [row for part in parts for row in part.rows]

    async def alive(self) -> Heartbeat:
        """Answer."""
        return Heartbeat.of_this_process()

    async def progress(self) -> SchedulerProgress:
        """How far the requests are that a step or an evaluation waits for now, and who failed meanwhile."""
        tasks = [task for batch in self._awaited for task in batch.tasks.values()]
        done, dispatcher = sum(task.done() for task in tasks), self._dispatcher
        return SchedulerProgress(done, len(tasks), dispatcher.take_suspects(), dispatcher.bank.failed)

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        """A call in here waits for requests."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    # ---- engines, verifiers and bank --------------------------------------------------------------------------------

    async def hold(self, sources: Collection[Source]) -> None:
        """A weight sync begins: engines of these sources get no request until `release`."""
        for source in sources:
            self._engines[source].hold()

    async def release(self, version: int) -> None:
        """The learner engines hold `version`, and all engines are awake."""
        self._engines["explorer"].release(None)
        self._engines["learner"].release(version)

    async def add(self, pool: PoolName, number: int, worker: Any) -> None:
        """An engine or a verifier has joined: it gets requests from now on."""
        self._dispatcher.pool(pool).add(number, worker)

    async def retire(self, source: Source, number: int) -> None:
        """Give an engine no more requests and return once those it has are done.

        Raises:
            StepTimeoutError: they are not within the bound.
        """
        await self._dispatcher.retire(source, number)

    async def drop(self, pool: PoolName, number: int) -> None:
        """Forget an engine or a verifier that is gone."""
        self._dispatcher.drop(pool, number)

    async def replace_bank(self, bank: Any) -> None:
        """The bank has another actor: its first one is gone."""
        await self._dispatcher.bank.replace(bank)

    # ---- requests ---------------------------------------------------------------------------------------------------

    def _sampled_prompts(self, step: int) -> list[str]:
        stragglers = set(self._pipeline.stragglers.get(step, ()))
        return [prompt_id for prompt_id in self._planner.sampled_prompts(step) if prompt_id not in stragglers]

    def _request_learner(self, step: int) -> None:
        """Send the learner's requests of a step, if they were not sent before."""
        if (step, "learner") not in self._batches:
            batch = self._batches[step, "learner"]
            for request in self._planner.learner_requests(step, self._sampled_prompts(step)):
                batch.add(request.prompt_id, self._learner_rollouts(request, batch))

    def _fill_prefetch_buffer(self) -> None:
        while (request := self._prefetched.next()) is not None:
            self._start_explorer([request])

    def _start_explorer(self, requests: Iterable[ExplorerRequest]) -> None:
        for request in requests:
            batch = self._batches[request.step, "explorer"]
            batch.add(request.prompt_id, self._explorer_rollouts(request, batch))

    async def _explorer_rollouts(self, request: ExplorerRequest, batch: RequestBatch) -> ScoredSet:
        """Sample and verify an explorer request; then fill the room that it freed in the prefetch buffer."""
        part = await self._dispatcher.explore(request, batch)
        self._prefetched.finished(request, part.nbytes)
        self._fill_prefetch_buffer()
        return part

    async def _learner_rollouts(self, request: LearnerRequest, batch: RequestBatch) -> ScoredSet:
        """Rollouts within rollout.max_staleness of the step; those that come back too stale are resampled once.

        Raises:
            GroupError: they are too stale again.
        """
        oldest = max(0, request.step - 1 - self._pipeline.max_staleness)
        for _ in range(2):
            part = await self._dispatcher.roll_out(request, batch, oldest)
            old = sum(staleness(row, request.step) > self._pipeline.max_staleness for row in part.rows)
            if not old:
                return part
            batch.stale += old
        raise GroupError(
            f"step {request.step}: a learner engine sampled {request.prompt_id} twice with weights older than the "
            f"allowed version {oldest} (rollout.max_staleness: {self._pipeline.max_staleness})"
        )

    # ---- groups -----------------------------------------------------------------------------------------------------

    async def _whole(self, step: int) -> dict[str, list[ScoredSet]]:
        """The parts of every group that the step takes, in the order of its prompts: all, or those whole first.

        The others are stopped.
        """
        sources: dict[Source, RequestBatch] = {
            source: self._batches[step, source] for source in ("explorer", "learner")
        }
        prompts = self._sampled_prompts(step)
        groups = {
            prompt_id: asyncio.gather(*[s.tasks[prompt_id] for s in sources.values() if prompt_id in s.tasks])
            for prompt_id in prompts
        }
        enough = len(self._planner.prompts(step))
        await self._wait_for(step, list(groups.values()), min(enough, len(groups)), sources)
        done = [prompt_id for prompt_id in prompts if groups[prompt_id].done()][:enough]
        for prompt_id in prompts:
            if prompt_id not in done:
                with contextlib.suppress(asyncio.CancelledError):
                    groups[prompt_id].cancel()
                    await groups[prompt_id]
        return {prompt_id: groups[prompt_id].result() for prompt_id in done}

    async def _finish(self, step: int, sources: dict[Source, RequestBatch]) -> list[ScoredSet]:
        """Wait for all rollouts of a step."""
        tasks = [task for batch in sources.values() for task in batch.tasks.values()]
        await self._wait_for(step, tasks, len(tasks), sources)
        return [task.result() for task in tasks]

    async def _wait_for(
        self, step: int, futures: Sequence[asyncio.Future[Any]], enough: int, sources: dict[Source, RequestBatch]
    ) -> None:
        """See `request_batch.wait_for`; meanwhile `progress` counts what `sources` have."""
        mine = list(sources.values())
        self._awaited += mine
        try:
            await wait_for(step, futures, enough, sources, self._timeout_s)
        finally:
            self._awaited = [batch for batch in self._awaited if batch not in mine]

    async def _refill(self, step: int, groups: list[Group]) -> tuple[list[Group], int]:
        """Replace groups without variance by groups of spare prompts that have some; and how many were sampled."""
        tried = 0
        for _ in range(self._refill_rounds):
            wanting = [i for i, group in enumerate(groups) if without_variance(group.rows)]
            spares = self._planner.spare_prompts(step)[tried : tried + len(wanting)]
            if not spares:
                break
            tried += len(spares)
            fresh = [group for group in await self._sample_spares(step, spares) if not without_variance(group.rows)]
            for place, group in zip(wanting, fresh, strict=False):
                groups[place] = group
        return groups, tried

    async def _sample_spares(self, step: int, spares: list[str]) -> list[Group]:
        sources: dict[Source, RequestBatch] = {"explorer": RequestBatch(), "learner": RequestBatch()}
        for explored in self._planner.explorer_requests(step, spares):
            sources["explorer"].add(explored.prompt_id, self._explorer_rollouts(explored, sources["explorer"]))
        for learned in self._planner.learner_requests(step, spares):
            sources["learner"].add(learned.prompt_id, self._learner_rollouts(learned, self._batches[step, "learner"]))
        await self._finish(step, sources)
        return [self._group(step, p, [s.tasks[p].result() for s in sources.values() if p in s.tasks]) for p in spares]

    def _group(self, step: int, prompt_id: str, parts: list[ScoredSet]) -> Group:
        """Parts as a group, checked to be whole."""
        share = self._planner.schedule.split(step)
        rows = [row for part in parts for row in part.rows]
        check_group(prompt_id, rows, share.explorer, share.learner)
        return Group(prompt_id, [part.scored for part in parts], rows)
