"""The learner's sampler: weights are hot-swapped by broadcast; it refuses to sample without the version asked for."""

from __future__ import annotations

import ray

from actors.engine import EngineActor
from s2l_ray.generation.learner import LearnerEngine
from s2l_ray.weights.buckets import WeightSpec


@ray.remote(max_restarts=0)
class Learner(EngineActor):
    """One learner engine."""

    engine_class = LearnerEngine

    async def join(self, host: str, port: int, group: str, rank_offset: int, size: int, timeout_s: float) -> None:
        await self._engine.join(host, port, group, rank_offset, size, timeout_s)

    async def swap(self, version: int, specs: list[WeightSpec]) -> None:
        await self._engine.swap(version, specs)
