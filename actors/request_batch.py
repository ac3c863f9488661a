"""Requests under way, as the scheduler keeps track of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from s2l_ray.errors import StepTimeoutError
from s2l_ray.kinds import Source
from s2l_ray.rollouts.records import RolloutSummary, SetReport


@dataclass(frozen=True)
class ScoredSet:
    """A scored rollout set by reference, and what the scheduler learns of it."""

    scored: ray.ObjectRef
    report: SetReport

    @property
    def rows(self) -> list[RolloutSummary]:
        """The numbers of each rollout."""
        return self.report.rows

    @property
    def nbytes(self) -> int:
        """Size of the arrays and texts."""
        return self.report.nbytes


class RequestBatch:
    """The requests of one source in one step: a task per prompt, and how long they took together."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[ScoredSet]] = {}
        self.stale = 0
        """Rollouts that were too old."""
        self.banked: dict[str, int] = {}
        """Prompt -> rollouts that came from the bank."""
        self._start: float | None = None
        self._end = 0.0

    def add(self, prompt_id: str, roll_out: Coroutine[Any, Any, ScoredSet]) -> None:
        """Start a request of a prompt."""
        task = asyncio.create_task(roll_out)
        task.add_done_callback(self._note_end)
        self.tasks[prompt_id] = task

    def began(self) -> None:
        """A request went to an engine."""
        self._start = time.monotonic() if self._start is None else self._start

    def cancel(self) -> None:
        """Stop every request that is not done."""
        for task in self.tasks.values():
            task.cancel()

    @property
    def is_done(self) -> bool:
        """Whether all of its requests are, one way or another."""
        return all(task.done() for task in self.tasks.values())

    def _note_end(self, _: asyncio.Task[ScoredSet]) -> None:
        self._end = time.monotonic()

    @property
    def span(self) -> float | None:
        """Seconds from sending the first request to the last verdict, once all are done; None if none was sent."""
        return None if self._start is None else self._end - self._start


async def wait_for(
    step: int,
    futures: Sequence[asyncio.Future[Any]],
    enough: int,
    sources: dict[Source, RequestBatch],
    timeout_s: float,
) -> None:
    """Wait until `enough` futures are done, raising what any of them raises.

    Args:
        sources: what `futures` wait for, by source: the error counts them.

    Raises:
        StepTimeoutError: fewer than `enough` are done in time; all of them are cancelled.
    """
    ready, missing = asyncio.Event(), enough

    def count(future: asyncio.Future[Any]) -> None:
        nonlocal missing
        missing -= 1
        if missing <= 0 or future.cancelled() or future.exception() is not None:
            ready.set()

    for future in futures:
        future.add_done_callback(count)
    try:
        if futures:
            await asyncio.wait_for(ready.wait(), timeout_s)
    except TimeoutError as error:
        late = {
            source: (sum(not task.done() for task in sampling.tasks.values()), len(sampling.tasks))
            for source, sampling in sources.items()
        }
        for future in futures:
            future.cancel()
        raise StepTimeoutError(
            f"step {step}: "
            + " and ".join(f"{n} of {total} {source} requests" for source, (n, total) in late.items() if n)
            + f" did not finish within {timeout_s:.0f} s (cluster.step_timeout_s)"
        ) from error
    for future in futures:
        if future.done():
            future.result()  # raises what the engine or the verifier raised
            future.remove_done_callback(count)
