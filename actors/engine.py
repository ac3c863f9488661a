"""The base of explorer and learner actors: a vLLM engine behind Ray calls."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import ClassVar

import numpy as np
import ray

from actors.liveness import Heartbeat
from s2l_ray.errors import EngineError
from s2l_ray.generation.engine import EngineSettings, SamplingEngine
from s2l_ray.kinds import EngineMemory
from s2l_ray.machine.temporary import drop_short_names, use_short_tmpdir
from s2l_ray.ray_bridge import error_log
from s2l_ray.rollouts.records import Period, Prompt, RolloutSet
from s2l_ray.rollouts.requests import SampleRequest
from s2l_ray.tasks.compat import model_directory
from s2l_ray.vllm_bridge.log import first_error_in


class EngineActor:
    """Base of the engine actors. Asynchronous: many sample calls run at once and share the engine's batch."""

    engine_class: ClassVar[type[SamplingEngine]] = SamplingEngine
    _engine: SamplingEngine

    def __init__(self, settings: EngineSettings, prompts: dict[str, Prompt]) -> None:
        self._settings = settings
        self._prompts = prompts
        self._closing = contextlib.AsyncExitStack()
        self._sampling: set[asyncio.Task[object]] = set()

    async def ready(self) -> None:
        """Start the engine; returns once it answers.

        Raises:
            EngineError: it does not start.
            ModelError: this node does not have the model.
            PlacementError: TMPDIR on its node cannot be used.
        """
        use_short_tmpdir(print)  # vLLM's sockets are below it
        settings = self._settings
        # Of the Hub, a model is in this node's cache.
        directory = model_directory(f"models.{settings.source}", settings.model)
        try:
            self._engine = self.engine_class(replace(settings, model=str(directory)), self._prompts)
        except Exception as error:  # anything from a bad model file to a lack of memory, in another process
            log = error_log()
            raise EngineError(
                f"the {self._settings.source} engine did not start on {self._settings.model}: "
                f"{first_error_in(log) or error} (its log: {log})"
            ) from error
        self._closing.push_async_callback(self._engine.close)

    async def alive(self) -> Heartbeat:
        """Answer, if the engine does. See `SamplingEngine.check_health`."""
        await self._engine.check_health()
        return Heartbeat.of_this_process()

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]  # Ray is not typed for us
    async def sample(self, request: SampleRequest) -> tuple[RolloutSet, Period | None]:
        """See `SamplingEngine.sample`: the rollouts, for a verifier; and when they were sampled, for the scheduler."""
        task = asyncio.current_task()
        assert task is not None
        self._sampling.add(task)
        try:
            sampled = await self._engine.sample(request)
        finally:
            self._sampling.discard(task)
        return sampled, sampled.sampled

    async def abandon(self) -> None:
        """Stop all sampling: the scheduler that has asked for it is gone."""
        for task in self._sampling:
            task.cancel()

    async def score(self, token_ids: np.ndarray) -> np.ndarray:
        """See `SamplingEngine.score`."""
        return await self._engine.score(token_ids)

    async def sleep(self) -> None:
        """See `SamplingEngine.sleep`."""
        await self._engine.sleep()

    async def wake(self, memory: EngineMemory) -> None:
        """See `SamplingEngine.wake`."""
        await self._engine.wake(memory)

    async def renew(self) -> None:
        """See `SamplingEngine.renew`."""
        await self._engine.renew()

    async def close(self) -> None:
        """Stop the engine, if it started."""
        await self._closing.aclose()
        drop_short_names()
