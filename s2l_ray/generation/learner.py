"""The learner's engine: weights arrive from the trainer, each with a version, and only that version is ever sampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from s2l_ray.errors import BroadcastError, EngineError, StaleWeightsError
from s2l_ray.generation.engine import EngineSettings, SamplingEngine
from s2l_ray.rollout import Prompt, RolloutSet, SampleRequest
from s2l_ray.weights.messages import Invitation


@dataclass(frozen=True)
class SwapTimes:
    """Where the time of one engine's weight swap went. An engine that sleeps stands still anyway: it has no stall."""

    start: float
    """When the swap was asked for; seconds since the epoch."""
    drain_s: float
    """Seconds from then until nothing ran any more: running requests were done (drain), or stood still (in_flight)."""
    receive_s: float
    """Seconds in which weights arrived and were loaded, waiting for the sender included."""
    stall_s: float
    """Seconds from when nothing ran any more until the engine sampled again."""
    running: int
    """Rollouts under way when the swap was asked for: waited for (drain), or continued under the new weights."""


class LearnerEngine(SamplingEngine):
    """A sampling engine whose weights are invalid until the first swap, during every swap, and after one that failed.

    A swap is `begin_swap`, `receive` (once over gloo and nccl, once per chunk over ipc), `finish_swap`.
    """

    sleep_level: ClassVar[int] = 2  # new weights arrive before it samples again

    def __init__(self, settings: EngineSettings, prompts: Mapping[str, Prompt]) -> None:
        super().__init__(settings, prompts)
        self.version: int | None = None
        """Weight version held; None: no valid weights."""

    async def check_in(self) -> None:
        """Answer from every worker of this engine, and leave the broadcast group of before.

        Raises:
            EngineError: a worker is gone.
        """
        await self._transfer("abandon_weight_update", EngineError)
        await self._transfer("shutdown_weight_transfer_engine", EngineError)

    async def join(self, invitation: Invitation) -> None:
        """Connect every worker of this engine to the trainer's broadcast group; returns once the group is complete.

        Raises:
            BroadcastError: it was not within the invitation's bound.
        """
        await self._transfer("init_weight_transfer_engine", BroadcastError, dataclasses.asdict(invitation))

    async def swap(self, version: int, update: dict[str, Any]) -> None:
        """Receive one version of the weights while the trainer broadcasts it.

        Args:
            update: see `messages.update_info`.

        Raises:
            BroadcastError: it did not arrive whole. The weights stay invalid, and `sample` refuses, until a swap does.
        """
        await self.begin_swap()
        await self.receive(update)
        await self.finish_swap(version)

    async def begin_swap(self) -> None:
        """Invalidate the weights. Running requests finish first, under the old version; its caches are dropped.

        Works while the KV cache is asleep.

        Raises:
            EngineError: the memory of the weights is asleep.
        """
        if "weights" in self._asleep:
            raise EngineError("a weight swap needs the memory of the weights: wake it first")
        self.version = None
        if not self._asleep:
            await self._llm.pause_generation(mode="wait", clear_cache=True)
        await self._transfer("abandon_weight_update")
        await self._transfer("start_weight_update")

    async def receive(self, update: dict[str, Any]) -> None:
        """All of the weights, or one chunk of them."""
        await self._transfer("update_weights", BroadcastError, update)

    async def finish_swap(self, version: int) -> None:
        """The weights are whole: they are `version` from here on."""
        await self._transfer("finish_weight_update")
        await self._llm.update_weight_version(str(version))
        if not self._asleep:
            await self._llm.resume_generation()
        self.version = version

    async def sleep(self) -> None:
        """As `SamplingEngine.sleep`; the weights are invalid afterwards."""
        await super().sleep()
        self.version = None

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

    async def _transfer(self, method: str, error: type[Exception] = BroadcastError, *args: Any) -> None:
        """Run a weight-transfer method in every worker of this engine."""
        failures = await self._llm.collective_rpc("try_weight_transfer", args=(method, *args))
        if any(failures):
            raise error(f"{method}: {'; '.join(filter(None, failures))}")
