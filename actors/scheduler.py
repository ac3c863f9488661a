"""Decides who samples what for which step and hands out groups as object refs. It never holds a token.

Explorer requests of coming steps are dispatched as soon as the present step's are done: the explorer is frozen, so its
rollouts cannot become stale while the trainer works. Learner requests go out when their weight version is in.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import ray

from s2l_ray.errors import StepTimeoutError
from s2l_ray.rollout import RolloutSummary, SampleRequest, Source
from s2l_ray.schedule import Share
from s2l_ray.scheduling import (
    StepPlanner,
    balance,
    check_group,
    mini_batches,
    solved_by_explorer_only,
    without_variance,
)


@dataclass(frozen=True)
class GroupRefs:
    """One whole group: refs of its scored rollout sets in the object store."""

    prompt_id: str
    parts: list[ray.ObjectRef]
    tokens: int


@dataclass(frozen=True)
class StepBatch:
    """One step's groups for the trainer, and their numbers for the driver."""

    share: Share
    prompts: list[str]
    assignment: list[list[list[GroupRefs]]]
    """[rank][mini-batch]: whole groups, balanced by tokens."""
    summaries: list[RolloutSummary]
    spans: dict[str, float]
    """Seconds from sending the first request of a source to its last verdict: "explore" (which may have begun, and
    ended, while the trainer worked on earlier steps) and "learner_generate". What samples nothing has none."""
    refilled: int
    """Groups sampled to replace such without variance, used or not."""
    explorer_only: tuple[int, int]
    """See `scheduling.solved_by_explorer_only`."""


@ray.remote(num_cpus=0, max_restarts=0)
class Scheduler:
    """Owns the pools of engines and verifiers. One per run.

    Args:
        planner: requests of every step.
        steps: T; nothing is explored ahead of the last step.
        explore_ahead: how many coming steps the explorer may sample while the trainer works.
        refill_rounds: how often groups without variance are replaced in one step.
        ranks: trainer ranks to balance groups over.
        mini_batch_prompts: groups per optimizer step.
        timeout_s: bound on every wait.
        engines: actors by source and number.
    """

    def __init__(
        self,
        planner: StepPlanner,
        steps: int,
        explore_ahead: int,
        refill_rounds: int,
        ranks: int,
        mini_batch_prompts: int,
        timeout_s: float,
        engines: dict[Source, dict[int, Any]],
        verifiers: list[Any],
    ) -> None:
        self._planner = planner
        self._steps = steps
        self._explore_ahead = explore_ahead
        self._refill_rounds = refill_rounds
        self._ranks = ranks
        self._mini_batch_prompts = mini_batch_prompts
        self._timeout_s = timeout_s
        self._engines = {source: _Pool(members) for source, members in engines.items()}
        self._verifiers = _Pool(dict(enumerate(verifiers)))
        self._exploring: dict[int, _Sampling] = {}

    async def collect(self, step: int, weight_version: int) -> StepBatch:
        """All groups of `step`, whole and verified.

        Args:
            step: 1-based.
            weight_version: what the learner engines hold.

        Raises:
            GroupError: a group is not exactly G rollouts of its prompt.
            StepTimeoutError: not everything came back in time; the message counts what is missing by source.
        """
        prompts = self._planner.prompts(step)
        exploring = self._explore(step)
        learning = self._dispatch(self._planner.requests(step, "learner", prompts, weight_version))
        parts = await self._finish(step, "explorer", exploring)
        del self._exploring[step]
        for coming in range(step + 1, min(step + self._explore_ahead, self._steps) + 1):
            self._explore(coming)
        parts += await self._finish(step, "learner", learning)
        groups, refilled = await self._refill(step, self._groups(step, prompts, parts), weight_version)
        compared = solved_by_explorer_only(group.rows for group in groups)
        self._planner.schedule.observe(step, *compared)
        spans = {"explore": exploring.span, "learner_generate": learning.span}
        return StepBatch(
            share=self._planner.schedule.share(step),
            prompts=[group.prompt_id for group in groups],
            assignment=self._assign(groups),
            summaries=[row for group in groups for row in group.rows],
            spans={name: span for name, span in spans.items() if span is not None},
            refilled=refilled,
            explorer_only=compared,
        )

    async def recall(self, observed: dict[int, tuple[int, int]]) -> None:
        """What the schedule measured in earlier steps of a run that goes on: by step, see `solved_by_explorer_only`."""
        for step, compared in observed.items():
            self._planner.schedule.observe(step, *compared)

    async def add(self, source: Source, number: int, engine: Any) -> None:
        """An engine has joined: it gets requests from now on."""
        self._engines[source].add(number, engine)

    async def retire(self, source: Source, number: int) -> None:
        """Give an engine no more requests and return once those it has are done.

        Raises:
            StepTimeoutError: they are not within the bound.
        """
        member = self._engines[source].remove(number)
        try:
            await asyncio.wait_for(member.idle.wait(), self._timeout_s)
        except TimeoutError as error:
            raise StepTimeoutError(
                f"{source} engine {number} still had {member.load} rollouts to sample after {self._timeout_s:.0f} s "
                "(cluster.step_timeout_s)"
            ) from error

    async def drop(self, source: Source, number: int) -> None:
        """Forget an engine that is gone."""
        self._engines[source].remove(number)

    async def evaluate(
        self, prompt_ids: list[str], source: Source, samples: int, weight_version: int
    ) -> list[RolloutSummary]:
        """`samples` rollouts of every prompt with the evaluation settings; the same seeds at every call."""
        version = weight_version if source == "learner" else None
        seed = self._planner.seed
        requests = [SampleRequest(0, p, source, samples, seed, version, sampling="eval") for p in prompt_ids]
        parts = await self._finish(0, source, self._dispatch(requests))
        return [row for _, rows in parts for row in rows]

    def _explore(self, step: int) -> _Sampling:
        if step not in self._exploring:
            prompts = self._planner.prompts(step)
            self._exploring[step] = self._dispatch(self._planner.requests(step, "explorer", prompts))
        return self._exploring[step]

    def _dispatch(self, requests: list[SampleRequest]) -> _Sampling:
        return _Sampling([asyncio.create_task(self._roll_out(request)) for request in requests])

    async def _roll_out(self, request: SampleRequest) -> _Part:
        """Sample, then verify: the rollouts go from engine to verifier to object store without passing here."""
        engine = self._engines[request.source].take(request.count)
        verifier = self._verifiers.take(request.count)
        try:
            sampled = engine.actor.sample.remote(request)
            scored, report = verifier.actor.verify.remote(sampled)
            return scored, (await report).rows
        finally:
            engine.give_back(request.count)
            verifier.give_back(request.count)

    async def _finish(self, step: int, source: Source, sampling: _Sampling) -> list[_Part]:
        tasks = sampling.tasks
        if not tasks:
            return []
        done, pending = await asyncio.wait(tasks, timeout=self._timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()  # raises what the engine or the verifier raised
        if pending:
            for task in pending:
                task.cancel()
            raise StepTimeoutError(
                f"step {step}: {len(pending)} of {len(tasks)} {source} requests did not finish within "
                f"{self._timeout_s:.0f} s (cluster.step_timeout_s)"
            )
        return [task.result() for task in tasks]

    async def _refill(self, step: int, groups: list[_Group], weight_version: int) -> tuple[list[_Group], int]:
        """Replace groups without variance by groups of spare prompts that have some; and how many were sampled."""
        tried = 0
        for _ in range(self._refill_rounds):
            wanting = [i for i, group in enumerate(groups) if without_variance(group.rows)]
            spares = self._planner.spares(step)[tried : tried + len(wanting)]
            if not spares:
                break
            tried += len(spares)
            exploring = self._dispatch(self._planner.requests(step, "explorer", spares))
            learning = self._dispatch(self._planner.requests(step, "learner", spares, weight_version))
            parts = await self._finish(step, "explorer", exploring) + await self._finish(step, "learner", learning)
            fresh = [group for group in self._groups(step, spares, parts) if not without_variance(group.rows)]
            for place, group in zip(wanting, fresh, strict=False):
                groups[place] = group
        return groups, tried

    def _groups(self, step: int, prompts: list[str], parts: list[_Part]) -> list[_Group]:
        """The parts by prompt, every group checked to be whole."""
        share = self._planner.schedule.share(step)
        by_prompt: dict[str, list[_Part]] = {prompt_id: [] for prompt_id in prompts}
        for scored, rows in parts:
            by_prompt[rows[0].prompt_id].append((scored, rows))
        groups = []
        for prompt_id, sets in by_prompt.items():
            rows = [row for _, set_rows in sets for row in set_rows]
            check_group(prompt_id, rows, share.explorer, share.learner)
            groups.append(_Group(prompt_id, [scored for scored, _ in sets], rows))
        return groups

    def _assign(self, found: list[_Group]) -> list[list[list[GroupRefs]]]:
        groups = [group.refs for group in found]
        per_rank: list[list[list[GroupRefs]]] = [[] for _ in range(self._ranks)]
        for batch in mini_batches(len(groups), self._mini_batch_prompts):
            chosen = balance([groups[i].tokens for i in batch], self._ranks)
            for rank, items in enumerate(chosen):
                per_rank[rank].append([groups[batch[i]] for i in items])
        return per_rank


_Part = tuple[ray.ObjectRef, list[RolloutSummary]]
"""A scored rollout set by reference, and its numbers."""


@dataclass(frozen=True)
class _Group:
    """One whole group: its parts by reference, and their numbers."""

    prompt_id: str
    parts: list[ray.ObjectRef]
    rows: list[RolloutSummary]

    @property
    def refs(self) -> GroupRefs:
        tokens = sum(row.prompt_tokens + row.response_tokens for row in self.rows)
        return GroupRefs(self.prompt_id, self.parts, tokens)


class _Sampling:
    """The tasks of one source in one step, and how long they took together."""

    def __init__(self, tasks: list[asyncio.Task]) -> None:
        self.tasks = tasks
        self._start = self._end = time.monotonic()
        for task in tasks:
            task.add_done_callback(self._note_end)

    def _note_end(self, _: asyncio.Task) -> None:
        self._end = time.monotonic()

    @property
    def span(self) -> float | None:
        """Seconds from sending the first request to the last verdict, once all are done; None without any."""
        return self._end - self._start if self.tasks else None


class _Member:
    """An actor and the rollouts it has outstanding."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.load = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def give(self, rollouts: int) -> None:
        self.load += rollouts
        self.idle.clear()

    def give_back(self, rollouts: int) -> None:
        self.load -= rollouts
        if self.load == 0:
            self.idle.set()


class _Pool:
    """Actors of one kind, by number; work goes to the one with the least outstanding, the first of equals."""

    def __init__(self, actors: dict[int, Any]) -> None:
        self._members = {number: _Member(actor) for number, actor in sorted(actors.items())}

    def add(self, number: int, actor: Any) -> None:
        self._members[number] = _Member(actor)

    def remove(self, number: int) -> _Member:
        return self._members.pop(number)

    def take(self, rollouts: int) -> _Member:
        member = min(self._members.values(), key=lambda m: m.load)
        member.give(rollouts)
        return member
