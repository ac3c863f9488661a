"""Decides who samples what for which step and hands out groups as object refs. It never holds a token.

Explorer requests of coming steps are dispatched as soon as the present step's are done: the explorer is frozen, so its
rollouts cannot become stale while the trainer works. Learner requests go out when their weight version is in.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import ray

from s2l_ray.errors import StepTimeoutError
from s2l_ray.rollout import RolloutSummary, SampleRequest, Source
from s2l_ray.schedule import Share
from s2l_ray.scheduling import StepPlanner, balance, check_group, mini_batches


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


@ray.remote(num_cpus=0, max_restarts=0)
class Scheduler:
    """Owns the pools of engines and verifiers. One per run.

    Args:
        planner: requests of every step.
        steps: T; nothing is explored ahead of the last step.
        explore_ahead: how many coming steps the explorer may sample while the trainer works.
        ranks: trainer ranks to balance groups over.
        mini_batch_prompts: groups per optimizer step.
        timeout_s: bound on every wait.
    """

    def __init__(
        self,
        planner: StepPlanner,
        steps: int,
        explore_ahead: int,
        ranks: int,
        mini_batch_prompts: int,
        timeout_s: float,
        engines: dict[Source, list[Any]],
        verifiers: list[Any],
    ) -> None:
        self._planner = planner
        self._steps = steps
        self._explore_ahead = explore_ahead
        self._ranks = ranks
        self._mini_batch_prompts = mini_batch_prompts
        self._timeout_s = timeout_s
        self._engines = {source: _Pool(actors) for source, actors in engines.items()}
        self._verifiers = _Pool(verifiers)
        self._exploring: dict[int, list[asyncio.Task]] = {}

    async def collect(self, step: int, weight_version: int) -> StepBatch:
        """All groups of `step`, whole and verified.

        Args:
            step: 1-based.
            weight_version: what the learner engines hold.

        Raises:
            GroupError: a group is not exactly G rollouts of its prompt.
            StepTimeoutError: not everything came back in time; the message counts what is missing by source.
        """
        exploring = self._explore(step)
        learning = self._dispatch(self._planner.requests(step, "learner", weight_version))
        parts = await self._finish(step, "explorer", exploring)
        del self._exploring[step]
        for coming in range(step + 1, min(step + self._explore_ahead, self._steps) + 1):
            self._explore(coming)
        parts += await self._finish(step, "learner", learning)
        return self._batch(step, parts)

    async def evaluate(
        self, prompt_ids: list[str], source: Source, samples: int, weight_version: int
    ) -> list[RolloutSummary]:
        """`samples` rollouts of every prompt with the evaluation settings; the same seeds at every call."""
        version = weight_version if source == "learner" else None
        seed = self._planner.seed
        requests = [SampleRequest(0, p, source, samples, seed, version, sampling="eval") for p in prompt_ids]
        parts = await self._finish(0, source, self._dispatch(requests))
        return [row for _, rows in parts for row in rows]

    def _explore(self, step: int) -> list[asyncio.Task]:
        if step not in self._exploring:
            self._exploring[step] = self._dispatch(self._planner.requests(step, "explorer"))
        return self._exploring[step]

    def _dispatch(self, requests: list[SampleRequest]) -> list[asyncio.Task]:
        return [asyncio.create_task(self._roll_out(request)) for request in requests]

    async def _roll_out(self, request: SampleRequest) -> _Part:
        """Sample, then verify: the rollouts go from engine to verifier to object store without passing here."""
        engine = self._engines[request.source].take(request.count)
        verifier = self._verifiers.take(request.count)
        try:
            sampled = engine.actor.sample.remote(request)
            scored, summaries = verifier.actor.verify.remote(sampled)
            return scored, await summaries
        finally:
            engine.load -= request.count
            verifier.load -= request.count

    async def _finish(self, step: int, source: Source, tasks: list[asyncio.Task]) -> list[_Part]:
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

    def _batch(self, step: int, parts: list[_Part]) -> StepBatch:
        share = self._planner.schedule.share(step)
        prompts = self._planner.prompts(step)
        by_prompt: dict[str, list[_Part]] = {prompt_id: [] for prompt_id in prompts}
        for scored, rows in parts:
            by_prompt[rows[0].prompt_id].append((scored, rows))
        groups = []
        for prompt_id, sets in by_prompt.items():
            rows = [row for _, set_rows in sets for row in set_rows]
            check_group(prompt_id, rows, share.explorer, share.learner)
            tokens = sum(row.prompt_tokens + row.response_tokens for row in rows)
            groups.append(GroupRefs(prompt_id, [scored for scored, _ in sets], tokens))
        return StepBatch(share, prompts, self._assign(groups), [row for _, rows in parts for row in rows])

    def _assign(self, groups: list[GroupRefs]) -> list[list[list[GroupRefs]]]:
        per_rank: list[list[list[GroupRefs]]] = [[] for _ in range(self._ranks)]
        for batch in mini_batches(len(groups), self._mini_batch_prompts):
            chosen = balance([groups[i].tokens for i in batch], self._ranks)
            for rank, items in enumerate(chosen):
                per_rank[rank].append([groups[batch[i]] for i in items])
        return per_rank


_Part = tuple[ray.ObjectRef, list[RolloutSummary]]
"""A scored rollout set by reference, and its numbers."""


@dataclass
class _Member:
    actor: Any
    load: int = 0
    """Rollouts outstanding."""


class _Pool:
    """Actors of one kind; work goes to the one with the least outstanding, the first of equals."""

    def __init__(self, actors: list[Any]) -> None:
        self._members = [_Member(actor) for actor in actors]

    def take(self, rollouts: int) -> _Member:
        member = min(self._members, key=lambda m: m.load)
        member.load += rollouts
        return member
