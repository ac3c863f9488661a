"""The learner's sampler: weights are hot-swapped by broadcast; it does not sample with others than a request allows."""

from __future__ import annotations

from typing import Any

import ray

from actors.engine import EngineActor
from s2l_ray.generation.learner import LearnerEngine, SwapTimes
from s2l_ray.weights.messages import Invitation


@ray.remote(max_restarts=0)
class Learner(EngineActor):
    """One learner engine."""

    engine_class = LearnerEngine

    async def check_in(self) -> None:
        await self._engine.check_in()

    async def join(self, invitation: Invitation) -> None:
        await self._engine.join(invitation)

    async def swap(self, version: int, update: dict[str, Any]) -> SwapTimes:
        return await self._engine.swap(version, update)

    async def begin_swap(self) -> None:
        await self._engine.begin_swap()

    async def receive(self, update: dict[str, Any]) -> None:
        await self._engine.receive(update)

    async def finish_swap(self, version: int) -> SwapTimes:
        return await self._engine.finish_swap(version)
