"""The learner's engine: weights arrive by broadcast, each with a version, and only that version is ever sampled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from s2l_ray.errors import StaleWeightsError
from s2l_ray.generation.engine import EngineSettings, SamplingEngine
from s2l_ray.rollout import Prompt, RolloutSet, SampleRequest
from s2l_ray.weights.buckets import WeightSpec


class LearnerEngine(SamplingEngine):
    """A sampling engine whose weights are invalid until the first swap, and during every swap."""

    def __init__(self, settings: EngineSettings, prompts: Mapping[str, Prompt]) -> None:
        super().__init__(settings, prompts)
        self.version: int | None = None
        """Weight version held; None: no valid weights."""

    async def join(self, host: str, port: int, group: str, rank_offset: int, size: int, timeout_s: float) -> None:
        """Connect every worker of this engine to the trainer's broadcast group; returns once the group is complete."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        info = {
            "host": host,
            "port": port,
            "group": group,
            "rank_offset": rank_offset,
            "size": size,
            "timeout_s": timeout_s,
        }
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=info))

    async def swap(self, version: int, specs: list[WeightSpec]) -> None:
        """Receive one version of the weights while the trainer sends it.

        Running requests finish first, under the old version; prefix and KV caches of the old version are dropped. When
        anything fails the weights stay invalid and `sample` keeps refusing.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self.version = None
        await self._llm.pause_generation(mode="wait", clear_cache=True)
        await self._llm.start_weight_update()
        rows = [[s.name, s.dtype, list(s.shape)] for s in specs]
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info={"specs": rows}))
        await self._llm.finish_weight_update(weight_version=str(version))
        await self._llm.resume_generation()
        self.version = version

    async def sample(self, request: SampleRequest) -> RolloutSet:
        """As `SamplingEngine.sample`.

        Raises:
            StaleWeightsError: the engine does not hold `request.weight_version`.
        """
        if self.version is None or self.version != request.weight_version:
            raise StaleWeightsError(
                f"asked to sample with weight version {request.weight_version}, but holds "
                + ("no valid weights" if self.version is None else f"version {self.version}")
            )
        return await super().sample(request)

    async def score(self, token_ids: np.ndarray) -> np.ndarray:
        """As `SamplingEngine.score`.

        Raises:
            StaleWeightsError: the engine holds no valid weights.
        """
        if self.version is None:
            raise StaleWeightsError("asked to score a text, but holds no valid weights")
        return await super().score(token_ids)
