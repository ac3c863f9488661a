"""The learner's engine: weights arrive from the trainer, each with a version, and every token knows its version."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from s2l_ray.errors import BroadcastError, EngineError, StaleWeightsError
from s2l_ray.generation.engine import EngineSettings, SamplingEngine
from s2l_ray.rollouts.records import Prompt, RolloutSet
from s2l_ray.rollouts.requests import SampleRequest
from s2l_ray.weights.messages import Invitation

Call = tuple[str, tuple]
"""A weight-transfer method of a worker, and its arguments."""
ABANDON: Call = ("abandon_weight_update", ())
START: Call = ("start_weight_update", ())
FINISH: Call = ("finish_weight_update", ())


@dataclass(frozen=True)
class WeightSyncTimes:
    """Where the time of one engine's weight sync went. An engine that sleeps stands still anyway: it has no stall."""

    start: float
    """When the weight sync was asked for; seconds since the epoch."""
    drain_s: float
    """Seconds from then until nothing ran any more: running requests were done (drain), or stood still (in_flight)."""
    receive_s: float
    """Seconds in which weights arrived and were loaded, waiting for the sender included."""
    stall_s: float
    """Seconds from when nothing ran any more until the engine sampled again."""
    running: int
    """Rollouts under way when the weight sync was asked for: waited for (drain), or continued under the new weights."""


class LearnerEngine(SamplingEngine):
    """A sampling engine whose weights are invalid until the first weight sync, during every weight sync, and after one
    that failed.

    A weight sync is `begin_weight_sync`, `receive` (once over gloo and nccl, once per chunk over ipc),
    `finish_weight_sync`. What it does with requests that are running is `EngineSettings.weight_sync_mode`:

    - drain: they finish under the old weights first. Those that wait for a place start under the new ones.
    - in_flight: they stop where they are and go on under the new weights. vLLM takes their KV cache away and computes
      it anew from their text, so each token's log-prob is that of its own weight version given all tokens before it.
      A seeded request goes on with the noise it would have had: its rollout is a function of the seed and of the
      positions of its weight syncs.

    After a weight sync that failed, everything stays stopped: requests that were running or waiting are kept as they
    are, and go on when a later weight sync succeeds (`begin_weight_sync` may be called again). Until then they wait, as
    long as their callers do, who may cancel them. They end with an error when the engine is closed or its process dies.
    """

    sleep_level: ClassVar[int] = 2  # new weights arrive before it samples again

    def __init__(self, settings: EngineSettings, prompts: Mapping[str, Prompt]) -> None:
        super().__init__(settings, prompts)
        self.version: int | None = None
        """Weight version held; None: no valid weights."""
        self._version_changed = asyncio.Condition()
        self._stop: _Stop | None = None
        self._stopping = asyncio.Lock()
        self._check_ins = 0

    async def check_in(self) -> None:
        """Answer from every worker of this engine, and leave the broadcast group of before.

        A weight sync that still waits for running requests is given up: its broadcast is over.

        Raises:
            EngineError: a worker is gone.
        """
        self._check_ins += 1
        await self._transfer(ABANDON, ("shutdown_weight_transfer_engine", ()), error=EngineError)

    async def join(self, invitation: Invitation) -> None:
        """Connect every worker of this engine to the trainer's broadcast group; returns once the group is complete.

        Raises:
            BroadcastError: it was not within the invitation's bound.
        """
        await self._transfer(("init_weight_transfer_engine", (dataclasses.asdict(invitation),)))

    async def weight_sync(self, version: int, update: dict[str, Any]) -> WeightSyncTimes:
        """Receive one version of the weights while the trainer broadcasts it.

        Args:
            update: see `messages.update_info`.

        Raises:
            BroadcastError: it did not arrive whole. The weights stay invalid, and `sample` refuses, until a weight sync
            does.
        """
        await self._stand_still()
        await self._timed_transfer(ABANDON, START, ("update_weights", (update,)), FINISH)
        return await self._go_on(version)

    async def begin_weight_sync(self) -> None:
        """Invalidate the weights and stop, as the weight sync mode says; the caches of the old weights are dropped.

        Returns once nothing runs, which with drain takes as long as the longest running request. Works while the KV
        cache is asleep, and again after a weight sync that failed.

        Raises:
            EngineError: the memory of the weights is asleep.
            BroadcastError: `check_in` was called meanwhile.
        """
        await self._stand_still()
        await self._transfer(ABANDON, START)

    async def receive(self, update: dict[str, Any]) -> None:
        """All of the weights, or one chunk of them."""
        await self._timed_transfer(("update_weights", (update,)))

    async def finish_weight_sync(self, version: int) -> WeightSyncTimes:
        """The weights are whole: they are `version` from here on, and what was stopped goes on."""
        await self._timed_transfer(FINISH)
        return await self._go_on(version)

    async def sleep(self) -> None:
        """As `SamplingEngine.sleep`; the weights are invalid afterwards."""
        await super().sleep()
        self.version = self._stop = None

    async def sample(self, request: SampleRequest) -> RolloutSet:
        """As `SamplingEngine.sample`.

        With max_staleness above 0 a request that comes during a weight sync, or before its version, waits for it.

        Raises:
            StaleWeightsError: the engine does not hold `request.weight_version` (with max_staleness above 0: nor a
                later one within weight_sync_timeout_s), or did not keep it while it sampled although max_staleness is
                0.
        """
        exact = self.settings.max_staleness == 0
        if not exact:
            await self._wait_for(request)
        elif self.version is None or self.version != request.weight_version:
            raise self._stale(request)
        sampled = await super().sample(request)
        if exact and any(r.weight_syncs or r.weight_version != request.weight_version for r in sampled.rollouts):
            raise StaleWeightsError(f"a weight sync came while weight version {request.weight_version} was sampled")
        return sampled

    async def score(self, token_ids: np.ndarray) -> np.ndarray:
        """As `SamplingEngine.score`.

        Raises:
            StaleWeightsError: the engine holds no valid weights.
        """
        if self.version is None:
            raise StaleWeightsError("asked to score a text, but holds no valid weights")
        return await super().score(token_ids)

    async def _stand_still(self) -> None:
        """Invalidate the weights; return once nothing runs and no cache of theirs is left."""
        if "weights" in self._asleep:
            raise EngineError("a weight sync needs the memory of the weights: wake it first")
        self.version = None
        check_ins = self._check_ins
        async with self._stopping:
            if self._stop is None:  # else it stands still since a weight sync that failed
                stop = _Stop(self._llm.get_num_unfinished_requests())
                if not self._asleep:
                    await self._pause()
                    stop.note_idle()
                self._stop = stop
        self._stop.receive_s = 0.0
        if self._check_ins != check_ins:
            raise BroadcastError("the trainer gave the weight sync up before the engine's running requests were done")

    async def _pause(self) -> None:
        await self._llm.pause({"drain": "wait", "in_flight": "keep"}[self.settings.weight_sync_mode])

    async def _go_on(self, version: int) -> WeightSyncTimes:
        await self._llm.update_weight_version(str(version))
        if not self._asleep:
            await self._llm.resume_generation()
        times, self._stop = self._stop.times(), None
        async with self._version_changed:
            self.version = version
            self._version_changed.notify_all()
        return times

    async def _wait_for(self, request: SampleRequest) -> None:
        try:
            async with asyncio.timeout(self.settings.weight_sync_timeout_s), self._version_changed:
                await self._version_changed.wait_for(
                    lambda: self.version is not None and self.version >= request.weight_version
                )
        except TimeoutError as error:
            raise self._stale(request) from error

    def _stale(self, request: SampleRequest) -> StaleWeightsError:
        held = "no valid weights" if self.version is None else f"version {self.version}"
        return StaleWeightsError(f"asked to sample with weight version {request.weight_version}, but holds {held}")

    def _versions(self, completion: Any) -> tuple[int, tuple[tuple[int, int], ...]]:
        # vLLM labels every batch of tokens, before it leaves the engine, with the version that `finish_weight_sync`
        # set.
        spans = [(span.start, int(span.version)) for span in completion.weight_versions]
        return spans[0][1], tuple(spans[1:])

    async def _timed_transfer(self, *calls: Call) -> None:
        begin = time.perf_counter()
        await self._transfer(*calls)
        self._stop.receive_s += time.perf_counter() - begin

    async def _transfer(self, *calls: Call, error: type[Exception] = BroadcastError) -> None:
        """Run weight-transfer methods in every worker of this engine, all in one message: each takes milliseconds."""
        failures = await self._llm.collective_rpc("try_weight_transfer", args=(calls,))
        if any(failures):
            raise error("; ".join(filter(None, failures)))


class _Stop:
    """An engine standing still for a weight sync: since when, and what for."""

    def __init__(self, running: int) -> None:
        self.receive_s = 0.0
        self._running = running
        self._start = time.time()
        self._asked = time.perf_counter()
        self._idle: float | None = None

    def note_idle(self) -> None:
        """Nothing runs any more."""
        self._idle = time.perf_counter()

    def times(self) -> WeightSyncTimes:
        """Of the weight sync that ends now."""
        drain = stall = 0.0
        if self._idle is not None:
            drain, stall = self._idle - self._asked, time.perf_counter() - self._idle
        return WeightSyncTimes(self._start, drain, self.receive_s, stall, self._running)
