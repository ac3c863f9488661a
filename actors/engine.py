"""What explorer and learner actors share: a vLLM engine behind Ray calls."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from s2l_ray.generation.engine import EngineSettings, SamplingEngine, engine_environment
from s2l_ray.rollout import Prompt, RolloutSet, SampleRequest


class EngineActor:
    """Base of the engine actors. Asynchronous: many sample calls run at once and share the engine's batch."""

    engine_class: ClassVar[type[SamplingEngine]] = SamplingEngine

    def __init__(self, settings: EngineSettings, prompts: dict[str, Prompt]) -> None:
        self._engine = self.engine_class(settings, prompts)

    async def ready(self) -> None:
        """Returns once the engine answers."""

    async def sample(self, request: SampleRequest) -> RolloutSet:
        return await self._engine.sample(request)

    async def score(self, token_ids: np.ndarray) -> np.ndarray:
        return await self._engine.score(token_ids)

    async def close(self) -> None:
        self._engine.close()


def engine_options(settings: EngineSettings) -> dict:
    """Ray options of an engine actor, apart from its place."""
    return {
        "num_cpus": settings.engine.cpus,
        "num_gpus": settings.engine.gpus,
        "runtime_env": {"env_vars": engine_environment(settings.engine)},
    }
