"""One vLLM engine that answers sample requests with rollouts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from s2l_ray.errors import EngineAsleepError
from s2l_ray.kinds import EngineMemory, SamplingName, Source, WeightSyncMode
from s2l_ray.rollouts.records import Period, Prompt, Rollout, RolloutSet
from s2l_ray.rollouts.requests import SampleRequest
from s2l_ray.vllm_bridge.engine import Completion, VllmEngine
from s2l_ray.vllm_bridge.settings import VllmSettings

if TYPE_CHECKING:
    from s2l_ray.config import SamplingConfig

MEMORY: tuple[EngineMemory, ...] = ("weights", "kv_cache")
SETTLED_S = 0.01
"""Seconds between two looks at whether requests are left."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings(VllmSettings):
    """The settings that vLLM is started with, and those of the run that a sampling engine needs."""

    source: Source
    sampling: Mapping[SamplingName, SamplingConfig]
    max_tokens: int
    """Response length limit."""
    weight_sync_mode: WeightSyncMode = "drain"
    max_staleness: int = 0
    """0: a request is sampled with exactly its weight version, or refused; above: with at least that version."""
    weight_sync_timeout_s: float = 120.0
    """Bound on a request's wait for the weight version that it needs, with max_staleness above 0."""
    model_name: str | None = None
    """What rollouts call the model; default: the name of its directory."""


class SamplingEngine:
    """A vLLM engine with the run's prompts and sampling settings. Use from one asyncio loop, and `close` it there.

    Args:
        settings: see `EngineSettings`. The engine starts at once, which takes seconds.
        prompts: by id; every prompt that a request may name.
    """

    keeps_weights_asleep: ClassVar[bool] = True
    """Whether the weights stay in host memory while the engine sleeps."""

    def __init__(self, settings: EngineSettings, prompts: Mapping[str, Prompt]) -> None:
        self.settings = settings
        self._prompts = prompts
        self._asleep: set[EngineMemory] = set()
        self._vllm = VllmEngine(settings)

    async def sample(self, request: SampleRequest) -> RolloutSet:
        """Sample one prompt `request.count` times. Other requests share the batch and do not change the result.

        Cancelling the call stops the sampling inside the engine at once, and frees its place in the batch.

        Raises:
            EngineAsleepError: see `sleep`.
            EngineDiedError: the engine is gone.
        """
        self._check_awake()
        prompt = self._prompts[request.prompt_id]
        sampling, begin = self.settings.sampling[request.sampling], time.time()
        completions = await self._vllm.generate(
            prompt.token_ids, request.count, request.first_seed, sampling, self.settings.max_tokens
        )
        rollouts = [self._rollout(request, completion) for completion in completions]
        return RolloutSet(prompt.id, prompt.token_ids, rollouts, Period(begin, time.time()))

    def _rollout(self, request: SampleRequest, completion: Completion) -> Rollout:
        (_, version), *weight_syncs = completion.versions or ((0, 0),)
        return Rollout(
            prompt_id=request.prompt_id,
            source=request.source,
            model=self.settings.model_name or Path(self.settings.model).name,
            weight_version=version,
            index=completion.index,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            text=completion.text,
            finish_reason=completion.finish_reason,
            weight_syncs=tuple(weight_syncs),
        )

    async def score(self, token_ids: np.ndarray) -> np.ndarray:
        """Log-probs of a given text under the engine's present weights, at temperature 1.

        Args:
            token_ids: int [tokens].

        Returns:
            float32 [tokens - 1]: natural log-prob of token t + 1 given tokens 0..t.

        Raises:
            EngineAsleepError: see `sleep`.
            EngineDiedError: the engine is gone.
        """
        self._check_awake()
        return await self._vllm.score(token_ids)

    async def sleep(self) -> None:
        """Finish running requests, then give weights and KV cache back to the devices, and sample nothing until woken.

        On CPUs vLLM keeps the memory; all else is the same. Without effect on an engine that is asleep.
        """
        if self._asleep != set(MEMORY):
            await self._vllm.sleep(self.keeps_weights_asleep)
            self._asleep = set(MEMORY)

    async def wake(self, memory: EngineMemory) -> None:
        """Take one kind of memory back; with the second the engine samples again. See `sleeping` for the order."""
        if memory in self._asleep:
            await self._vllm.wake(memory)
            self._asleep.remove(memory)

    async def check_health(self) -> None:
        """Return once the engine has answered.

        Raises:
            EngineDiedError: it can compute nothing any more.
        """
        await self._vllm.check_health()

    async def renew(self) -> None:
        """Be as an engine that has just started is, for another run, once all requests of the old one are done.

        They were cancelled, or the caller bounds the wait.
        """
        while self._vllm.unfinished_requests:
            await asyncio.sleep(SETTLED_S)

    async def close(self) -> None:
        """Stop the engine and its processes. Call it in the loop that used the engine."""
        await self._vllm.close()

    def _check_awake(self) -> None:
        if self._asleep:
            asleep = " and ".join(memory for memory in MEMORY if memory in self._asleep)
            raise EngineAsleepError(f"the {self.settings.source} engine is asleep: wake {asleep} first")
