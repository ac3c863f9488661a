"""The learner's engines: weights arrive by weight sync, and a request is sampled only with a version that it allows."""

from __future__ import annotations

from typing import Any

import ray

from actors.engine import EngineActor
from s2l_ray.generation.learner import LearnerEngine, WeightSyncTimes
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.held import HeldDigest
from s2l_ray.weights.messages import Invitation


@ray.remote(max_restarts=0)
class Learner(EngineActor):
    """One learner engine behind Ray calls."""

    _engine: LearnerEngine

    engine_class = LearnerEngine

    async def check_in(self) -> None:
        """See `LearnerEngine.check_in`."""
        await self._engine.check_in()

    async def join(self, invitation: Invitation) -> None:
        """See `LearnerEngine.join`."""
        await self._engine.join(invitation)

    async def drain(self) -> None:
        """See `LearnerEngine.drain`."""
        await self._engine.drain()

    async def weight_sync(self, version: int, update: dict[str, Any]) -> WeightSyncTimes:
        """See `LearnerEngine.weight_sync`."""
        return await self._engine.weight_sync(version, update)

    async def begin_weight_sync(self) -> None:
        """See `LearnerEngine.begin_weight_sync`."""
        await self._engine.begin_weight_sync()

    async def receive(self, update: dict[str, Any]) -> None:
        """See `LearnerEngine.receive`."""
        await self._engine.receive(update)

    async def finish_weight_sync(self, version: int) -> WeightSyncTimes:
        """See `LearnerEngine.finish_weight_sync`."""
        return await self._engine.finish_weight_sync(version)

    async def describe_weights(self, specs: list[WeightSpec]) -> list[str]:
        """See `LearnerEngine.describe_weights`."""
        return await self._engine.describe_weights(specs)

    async def weight_digests(self) -> list[HeldDigest]:
        """See `LearnerEngine.weight_digests`."""
        return await self._engine.weight_digests()
