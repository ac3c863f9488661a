"""The learner's engine: weights arrive from the trainer, each with a version, and every token knows its version."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from s2l_ray.errors import BroadcastError, EngineError, StaleWeightsError
from s2l_ray.generation.engine import EngineSettings, SamplingEngine
from s2l_ray.rollouts.records import Prompt, RolloutSet
from s2l_ray.rollouts.requests import EvaluationRequest, LearnerRequest, SampleRequest
from s2l_ray.vllm_bridge import calls
from s2l_ray.vllm_bridge.calls import WorkerCall
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.held import EngineHoldings, HeldDigest, HeldPart, WorkerHoldings
from s2l_ray.weights.messages import Invitation


@dataclass(frozen=True)
class WeightSyncTimes:
    """The parts of one engine's weight sync, in seconds. A sleeping engine has no stall."""

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
    """A sampling engine that receives its weights.

    They are invalid until the first weight sync, during every weight sync, and after one that failed.

    A weight sync is `begin_weight_sync`, `receive` (once over gloo and nccl, once per chunk over ipc),
    `finish_weight_sync`. What it does with requests that are running is `EngineSettings.weight_sync_mode`:

    - drain: they finish under the old weights first. Those that wait for a place start under the new ones.
    - in_flight: they stop where they are and continue under the new weights. vLLM drops their KV cache and computes
      it again from their text, so each token's log-prob is that of its own weight version given all tokens before.
      A seeded request continues with the noise it would have had: its rollout is a function of the seed and of the
      positions of its weight syncs.

    After a weight sync that failed, everything stays stopped: requests that were running or waiting are kept as they
    are, and continue when a later weight sync succeeds (`begin_weight_sync` may be called again). Until then they wait
    as long as their callers do, who may cancel them. They end with an error when the engine is closed or its process
    dies.
    """

    keeps_weights_asleep: ClassVar[bool] = False  # new weights arrive before it samples again

    def __init__(self, settings: EngineSettings, prompts: Mapping[str, Prompt]) -> None:
        super().__init__(settings, prompts)
        self.version: int | None = None
        """Weight version held; None: no valid weights."""
        self._version_changed = asyncio.Condition()
        self._stop: _Stop | None = None
        self._stopping = asyncio.Lock()
        self._check_ins = 0
        self._holdings: EngineHoldings | None = None

    async def check_in(self) -> None:
        """Answer from every worker of this engine, and leave the broadcast group of before.

        A weight sync that still waits for running requests is given up: its broadcast is over.

        Raises:
            EngineError: a worker is gone.
        """
        self._check_ins += 1
        if failures := await self._vllm.call_workers(calls.ABANDON, calls.LEAVE):
            raise EngineError("; ".join(failures))

    async def join(self, invitation: Invitation) -> None:
        """Connect every worker of this engine to the trainer's broadcast group; returns once the group is complete.

        Raises:
            BroadcastError: it was not within the invitation's bound.
        """
        await self._transfer(calls.join(invitation))

    async def weight_sync(self, version: int, update: dict[str, Any]) -> WeightSyncTimes:
        """Receive one version of the weights while the trainer broadcasts it.

        Args:
            update: see `messages.update_info`.

        Raises:
            BroadcastError: it did not arrive whole. The weights stay invalid, and `sample` refuses, until a weight sync
            does.
        """
        stop = await self._stand_still()
        with stop.receiving():
            await self._transfer(calls.ABANDON, calls.START, calls.update(update), calls.FINISH)
        return await self._resume(stop, version)

    async def drain(self) -> None:
        """Invalidate the weights and stop, as the weight sync mode says, ahead of `weight_sync`.

        So that the sender, whose bound counts from its first byte, begins when no member has requests to finish.

        Raises:
            EngineError, BroadcastError: as `begin_weight_sync`.
        """
        await self._stand_still()

    async def begin_weight_sync(self) -> None:
        """Invalidate the weights and stop, as the weight sync mode says; the caches of the old weights are dropped.

        Returns once nothing runs, which with drain takes as long as the longest running request. Works while the KV
        cache is asleep, and again after a weight sync that failed.

        Raises:
            EngineError: the memory of the weights is asleep.
            BroadcastError: `check_in` was called meanwhile.
        """
        await self._stand_still()
        await self._transfer(calls.ABANDON, calls.START)

    async def receive(self, update: dict[str, Any]) -> None:
        """Receive all of the weights, or one chunk of them, after `begin_weight_sync`.

        Raises:
            BroadcastError: they did not arrive whole.
        """
        with self._present_stop.receiving():
            await self._transfer(calls.update(update))

    async def finish_weight_sync(self, version: int) -> WeightSyncTimes:
        """The weights are whole: they are `version` from here on, and what was stopped continues."""
        stop = self._present_stop
        with stop.receiving():
            await self._transfer(calls.FINISH)
        return await self._resume(stop, version)

    async def describe_weights(self, specs: Sequence[WeightSpec]) -> list[str]:
        """Find out where the trainer's tensors are held, for `weight_digests`. Touches no weights; may be repeated.

        Args:
            specs: what a weight sync carries.

        Returns:
            Why the weights cannot be compared with the trainer's, one line each; empty: they can.
        """
        answers = await self._vllm.ask_workers(calls.describe_held(specs))
        workers = [
            WorkerHoldings(answer["problems"], [HeldPart(*row) for row in answer["rows"]], answer["wholes"])
            for answer in answers
        ]
        holdings = EngineHoldings(specs, workers)
        self._holdings = None if holdings.problems else holdings
        return holdings.problems

    async def weight_digests(self) -> list[HeldDigest]:
        """The digests of the weights that the engine holds now, after `describe_weights` and a weight sync.

        They are taken between two of the engine's steps, and take about as long as reading the weights a few times.

        Raises:
            StaleWeightsError: the engine holds no valid weights.
            EngineError: `describe_weights` did not come first, or a worker is gone.
        """
        if self._holdings is None:
            raise EngineError("asked for digests of its weights, but not told which: describe_weights comes first")
        if self.version is None or "weights" in self._asleep:
            raise StaleWeightsError("asked for digests of its weights, but holds no valid weights")
        return self._holdings.digests(await self._vllm.ask_workers(calls.DIGEST_HELD))

    async def sleep(self) -> None:
        """As `SamplingEngine.sleep`; the weights are invalid afterwards."""
        await super().sleep()
        self.version = self._stop = None

    async def check_health(self) -> None:
        """As `SamplingEngine.check_health`. An engine that receives weights is busy with them, for a bounded time."""
        if self._stop is None:
            await super().check_health()

    async def renew(self) -> None:
        """As `SamplingEngine.renew`; the weights are invalid afterwards, so that no version of the old run is used.

        The next weight sync drops the caches of the old weights, as every weight sync does.

        Raises:
            EngineError: the engine stands still since a weight sync that failed.
        """
        if self._stop is not None:
            raise EngineError("the engine stands still since a weight sync that failed")
        self.version = None
        await super().renew()

    async def sample(self, request: SampleRequest) -> RolloutSet:
        """As `SamplingEngine.sample`.

        With max_staleness above 0 a request that comes during a weight sync, or before its version, waits for it.

        Raises:
            StaleWeightsError: the engine does not hold `request.weight_version` (with max_staleness above 0: nor a
                later one within weight_sync_timeout_s), or did not keep it while it sampled although max_staleness is
                0.
        """
        version = _version_of(request)
        exact = self.settings.max_staleness == 0
        if not exact:
            await self._wait_for(version)
        elif self.version != version:
            raise self._stale(version)
        sampled = await super().sample(request)
        if exact and any(r.weight_syncs or r.weight_version != version for r in sampled.rollouts):
            raise StaleWeightsError(f"a weight sync came while weight version {version} was sampled")
        return sampled

    async def score(self, token_ids: np.ndarray) -> np.ndarray:
        """As `SamplingEngine.score`.

        Raises:
            StaleWeightsError: the engine holds no valid weights.
        """
        if self.version is None:
            raise StaleWeightsError("asked to score a text, but holds no valid weights")
        return await super().score(token_ids)

    async def _stand_still(self) -> _Stop:
        """Invalidate the weights; return once nothing runs and no cache of theirs is left."""
        if "weights" in self._asleep:
            raise EngineError("a weight sync needs the memory of the weights: wake it first")
        self.version = None
        check_ins = self._check_ins
        async with self._stopping:
            if self._stop is None:  # else it stands still since a weight sync that failed
                stop = _Stop(self._vllm.unfinished_requests)
                if not self._asleep:
                    await self._vllm.pause(self.settings.weight_sync_mode)
                    stop.note_idle()
                self._stop = stop
        self._stop.receive_s = 0.0
        if self._check_ins != check_ins:
            raise BroadcastError("the trainer gave the weight sync up before the engine's running requests were done")
        return self._stop

    @property
    def _present_stop(self) -> _Stop:
        if self._stop is None:
            raise EngineError("weights arrived without a weight sync: begin_weight_sync comes first")
        return self._stop

    async def _resume(self, stop: _Stop, version: int) -> WeightSyncTimes:
        await self._vllm.set_weight_version(version)
        if not self._asleep:
            await self._vllm.resume()
        times, self._stop = stop.times(), None
        async with self._version_changed:
            self.version = version
            self._version_changed.notify_all()
        return times

    async def _wait_for(self, version: int) -> None:
        try:
            async with asyncio.timeout(self.settings.weight_sync_timeout_s), self._version_changed:
                await self._version_changed.wait_for(lambda: self.version is not None and self.version >= version)
        except TimeoutError as error:
            raise self._stale(version) from error

    def _stale(self, version: int) -> StaleWeightsError:
        held = "no valid weights" if self.version is None else f"version {self.version}"
        return StaleWeightsError(f"asked to sample with weight version {version}, but holds {held}")

    async def _transfer(self, *worker_calls: WorkerCall) -> None:
        """Run weight-transfer methods in every worker of this engine, all in one message: each takes milliseconds."""
        if failures := await self._vllm.call_workers(*worker_calls):
            raise BroadcastError("; ".join(failures))


def _version_of(request: SampleRequest) -> int:
    """The weight version that must sample a request."""
    if not isinstance(request, LearnerRequest | EvaluationRequest) or request.weight_version is None:
        raise StaleWeightsError(f"a learner engine was sent a request without a weight version: {request}")
    return request.weight_version


class _Stop:
    """An engine standing still for a weight sync: since when, and what for.

    Args:
        running: rollouts under way when it was asked for.
    """

    def __init__(self, running: int) -> None:
        self.receive_s = 0.0
        self._running = running
        self._start = time.time()
        self._asked = time.perf_counter()
        self._idle: float | None = None

    def note_idle(self) -> None:
        """Nothing runs any more."""
        self._idle = time.perf_counter()

    @contextlib.contextmanager
    def receiving(self) -> Iterator[None]:
        """Weights arrive in here. Time is not counted when they fail to: `_stand_still` starts from zero again."""
        begin = time.perf_counter()
        yield
        self.receive_s += time.perf_counter() - begin

    def times(self) -> WeightSyncTimes:
        """The times of a weight sync that ends now."""
        drain = stall = 0.0
        if self._idle is not None:
            drain, stall = self._idle - self._asked, time.perf_counter() - self._idle
        return WeightSyncTimes(self._start, drain, self.receive_s, stall, self._running)
