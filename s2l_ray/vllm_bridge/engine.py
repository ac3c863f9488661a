"""One vLLM engine behind an interface without vLLM's types: continuous batching, a seed per request, log-probs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from s2l_ray.errors import EngineDiedError, EngineError
from s2l_ray.vllm_bridge.calls import WorkerCall
from s2l_ray.vllm_bridge.settings import VllmSettings

if TYPE_CHECKING:
    from s2l_ray.config import SamplingConfig
    from s2l_ray.kinds import EngineMemory, FinishReason, WeightSyncMode

SHUTDOWN_S = 2.0


@dataclass(frozen=True)
class Completion:
    """One sampled response."""

    index: int
    """Position among the samples of its request."""
    token_ids: np.ndarray
    """int32 [response tokens]."""
    logprobs: np.ndarray
    """float32 [response tokens], natural logarithms, of the distribution that was sampled from."""
    text: str
    finish_reason: FinishReason
    versions: tuple[tuple[int, int], ...]
    """(position of the first token, weight version) of every stretch that one version sampled, in order; empty in an
    engine whose weights never change."""


class LLM(Protocol):
    """The part of vLLM's `AsyncLLM` that is used here; `in_process` and `separate` each have it."""

    def get_tokenizer(self) -> Any:
        """The model's tokenizer."""

    def get_num_unfinished_requests(self) -> int:
        """How many samples run or wait for a place in the batch."""

    def generate(self, prompt: Any, sampling_params: Any, request_id: str) -> AsyncIterator[Any]:
        """Outputs of one request; with output_kind FINAL_ONLY the last one holds all of it."""

    async def abort(self, request_id: str) -> None:
        """Stop a request."""

    async def pause(self, mode: str) -> None:
        """Stop sampling and drop the cache: running requests are kept ("keep") or finished first ("wait")."""

    async def resume_generation(self) -> None:
        """Sample again after `pause`."""

    async def sleep(self, level: int, mode: str) -> None:
        """Give memory back: level 1 keeps the weights in host memory, level 2 drops them."""

    async def wake_up(self, tags: list[str]) -> Any:
        """Take memory back: "weights", "kv_cache" or both."""

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...]) -> list[Any]:
        """Call a method of every worker; returns their answers."""

    async def check_health(self) -> None:
        """Return once the engine has turned to this call; raise if it never will."""

    async def update_weight_version(self, new_version: str) -> None:
        """Label what is sampled from here on."""

    def shutdown(self, timeout: float) -> None:
        """End the engine and its processes."""


class VllmEngine:
    """A running engine. Use from one asyncio loop, and `close` it there.

    Args:
        settings: see `VllmSettings`. Loads the model and allocates the KV cache, which takes seconds.
    """

    def __init__(self, settings: VllmSettings) -> None:
        self.llm = _start(settings)
        self._versioned = settings.weight_transfer is not None
        self._requests = itertools.count()
        self._tokenizer = self.llm.get_tokenizer()

    @property
    def unfinished_requests(self) -> int:
        """Samples that run or wait for a place in the batch."""
        return self.llm.get_num_unfinished_requests()

    async def generate(
        self, token_ids: np.ndarray, count: int, seed: int, sampling: SamplingConfig, max_tokens: int
    ) -> list[Completion]:
        """Sample a prompt `count` times, the k-th time with seed + k. Other requests in the batch change nothing.

        Cancelling the call stops the sampling inside the engine at once, and frees its place in the batch.

        Args:
            token_ids: int [prompt tokens].
            max_tokens: response length limit.

        Returns:
            In the order of their index.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=count,
            seed=seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            presence_penalty=sampling.presence_penalty,
            max_tokens=max_tokens,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._generate(token_ids, params)
        completions = sorted(output.outputs, key=lambda completion: completion.index)
        texts = self._tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)
        return [self._completion(*both) for both in zip(completions, texts, strict=True)]

    async def score(self, token_ids: np.ndarray) -> np.ndarray:
        """Log-probs of a given text under the engine's present weights, at temperature 1.

        Args:
            token_ids: int [tokens].

        Returns:
            float32 [tokens - 1]: natural log-prob of token t + 1 given tokens 0..t.
        """
        from vllm import SamplingParams

        output = await self._generate(token_ids, SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0))
        rows = output.prompt_logprobs[1:]
        return np.array([row[int(t)].logprob for row, t in zip(rows, token_ids[1:], strict=True)], dtype=np.float32)

    async def sleep(self, keep_weights: bool) -> None:
        """Finish running requests, then give weights and KV cache back to the devices.

        On CPUs vLLM keeps the memory; all else is the same.

        Args:
            keep_weights: hold the weights in host memory meanwhile (vLLM's level 1); else drop them (level 2).
        """
        await self.llm.sleep(level=1 if keep_weights else 2, mode="wait")

    async def wake(self, memory: EngineMemory) -> None:
        """Take one kind of memory back; with the second the engine samples again."""
        await self.llm.wake_up([memory])

    async def pause(self, mode: WeightSyncMode) -> None:
        """Stop sampling and drop the cache, that of running requests included; returns once nothing runs.

        Args:
            mode: drain: running requests finish first. in_flight: they stop where they are, and `resume` continues
                them from their text.
        """
        await self.llm.pause({"drain": "wait", "in_flight": "keep"}[mode])

    async def resume(self) -> None:
        """Sample again after `pause`."""
        await self.llm.resume_generation()

    async def set_weight_version(self, version: int) -> None:
        """Label every token that is sampled from here on with this version (`Completion.versions`)."""
        await self.llm.update_weight_version(str(version))

    async def call_workers(self, *calls: WorkerCall) -> list[str]:
        """Run weight-transfer methods (see `calls`) in every worker, in one message. Returns what went wrong."""
        failures = await self.llm.collective_rpc("try_weight_transfer", args=(calls,))
        return [failure for failure in failures if failure]

    async def check_health(self) -> None:
        """Return once the engine has answered, which it does between two steps.

        Raises:
            EngineDiedError: it can compute nothing any more.
        """
        with _named_death():
            await self.llm.check_health()

    async def ask_workers(self, call: WorkerCall) -> list[Any]:
        """The answer of every worker to a method that has one (see `calls`), in the order of their ranks.

        Raises:
            EngineError: a worker could not answer.
        """
        answers = await self.llm.collective_rpc("try_answer", args=call)
        if failures := [failure for _, failure in answers if failure]:
            raise EngineError("; ".join(failures))
        return [answer for answer, _ in answers]

    async def close(self) -> None:
        """Stop the engine and its processes.

        In the loop, where vLLM closes its sockets at once. Called from elsewhere, vLLM leaves that to the loop; if the
        loop is over, garbage collection of the sockets' context can wait for ever.
        """
        self.llm.shutdown(timeout=SHUTDOWN_S)
        # Now, not at interpreter exit: its finaliser would find half of vLLM's modules already gone.
        del self.llm

    async def _generate(self, token_ids: np.ndarray, params: Any) -> Any:
        request_id = f"request-{next(self._requests)}"
        outputs = self.llm.generate({"prompt_token_ids": token_ids.tolist()}, params, request_id)
        try:
            with _named_death():
                return [output async for output in outputs][-1]
        except asyncio.CancelledError:
            # vLLM aborts it too, but not the first of n samples when it is cancelled while it adds the others.
            await self.llm.abort(request_id)
            raise

    def _completion(self, completion: Any, text: str) -> Completion:
        # vLLM labels every batch of tokens, before it leaves the engine, with the version that was set last.
        spans = completion.weight_versions if self._versioned else ()
        return Completion(
            index=completion.index,
            token_ids=np.asarray(completion.token_ids, dtype=np.int32),
            logprobs=np.asarray(completion.logprobs.logprobs, dtype=np.float32),
            text=text,
            finish_reason=completion.finish_reason,
            versions=tuple((span.start, int(span.version)) for span in spans),
        )


@contextlib.contextmanager
def _named_death() -> Iterator[None]:
    """Raise EngineDiedError for vLLM's own error of an engine whose processes are gone."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise EngineDiedError(f"the engine is gone: {error}") from error


def _start(settings: VllmSettings) -> LLM:
    from s2l_ray.vllm_bridge.arguments import engine_arguments, runs_in_process
    from s2l_ray.vllm_bridge.in_process import InProcessLLM
    from s2l_ray.vllm_bridge.separate import SeparateLLM

    arguments = engine_arguments(settings)
    if runs_in_process(settings):
        return InProcessLLM(arguments)
    separate: LLM = SeparateLLM.from_engine_args(arguments)
    return separate
