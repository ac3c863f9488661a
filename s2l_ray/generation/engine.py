"""One vLLM engine that answers sample requests: continuous batching, a seed per rollout, log-probs of its samples."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from s2l_ray.errors import EngineError
from s2l_ray.kinds import EngineMemory, Source, WeightSyncMode
from s2l_ray.rollouts.records import Period, Prompt, Rollout, RolloutSet
from s2l_ray.rollouts.requests import SampleRequest

if TYPE_CHECKING:
    from s2l_ray.config import EngineConfig, SamplingConfig
    from s2l_ray.kinds import Transfer

MEMORY: tuple[EngineMemory, ...] = ("weights", "kv_cache")


@dataclass(frozen=True)
class EngineSettings:
    """What an engine needs to know of the run."""

    model: str
    """Hugging Face directory."""
    source: Source
    engine: EngineConfig
    sampling: Mapping[str, SamplingConfig]
    """By name: "train" and "eval"."""
    max_tokens: int
    max_model_len: int
    dtype: str
    trust_remote_code: bool
    weight_transfer: Transfer | None = None
    """How weights reach it; None: they never change."""
    load_weights: bool = True
    """False: start without reading them from disk; they arrive by a weight sync before anything is sampled."""
    sleep: bool = False
    """It shares its devices with a trainer rank, and gives their memory back while it sleeps."""
    tensor_parallel: int = 1
    """Devices of this engine."""
    kv_cache_bytes: int = 2**29
    """On each device."""
    weight_sync_mode: WeightSyncMode = "drain"
    max_staleness: int = 0
    """0: a request is sampled with exactly its weight version, or refused; above: with at least that version."""
    weight_sync_timeout_s: float = 120.0
    """How long a request waits for the weight version that it needs, with max_staleness above 0."""
    own_process: bool = False
    """Whether this process holds nothing but this engine, so that vLLM may run inside it where that is faster."""


def engine_environment(engine: EngineConfig) -> dict[str, str]:
    """Environment of a process that holds an engine. Must be set before vLLM is imported.

    Everything an engine listens on stays on this host's loopback; several engines on one host must not each claim every
    core, nor report usage to anyone.
    """
    # vLLM compiles some sampling helpers even when the model runs eagerly: half a minute at the first request, with a
    # C++ compiler that a bare machine may not have.
    eager = {"TORCHDYNAMO_DISABLE": "1"} if engine.enforce_eager else {}
    # On GPUs vLLM's sampler takes for granted that FlashInfer is there, and fails while the engine starts.
    sampler = {} if importlib.util.find_spec("flashinfer") else {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    return (
        eager
        | sampler
        | {
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_LOOPBACK_IP": "127.0.0.1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(engine.threads),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
            "TOKENIZERS_PARALLELISM": "false",
            # The trainer's NCCL must agree with vLLM's choice, or a common group hangs while it forms.
            "NCCL_CUMEM_ENABLE": "0",
        }
    )


class SamplingEngine:
    """A vLLM engine with the run's prompts and sampling settings. Use from one asyncio loop, and `close` it there."""

    sleep_level: ClassVar[int] = 1
    """vLLM's: 1 keeps the weights in host memory meanwhile, 2 keeps nothing."""

    def __init__(self, settings: EngineSettings, prompts: Mapping[str, Prompt]) -> None:
        """Start the engine: load the model, allocate the KV cache (bounded by the configuration). Takes seconds.

        Args:
            settings: see `EngineSettings`.
            prompts: by id; every prompt that a request may name.
        """
        self.settings = settings
        self._prompts = prompts
        self._requests = itertools.count()
        self._asleep: set[EngineMemory] = set()
        self._llm = _start_vllm(settings)
        self._tokenizer = self._llm.get_tokenizer()

    async def sample(self, request: SampleRequest) -> RolloutSet:
        """Sample one prompt `request.count` times. Other requests share the batch and do not change the result.

        Cancelling the call stops the sampling inside the engine at once, and frees its place in the batch.
        """
        prompt = self._prompts[request.prompt_id]
        begin = time.time()
        output = await self._generate(prompt.token_ids, self._sampling_params(request))
        completions = sorted(output.outputs, key=lambda c: c.index)
        texts = self._tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)
        rollouts = [self._rollout(request, *both) for both in zip(completions, texts, strict=True)]
        return RolloutSet(prompt.id, prompt.token_ids, rollouts, Period(begin, time.time()))

    def _rollout(self, request: SampleRequest, completion: Any, text: str) -> Rollout:
        version, weight_syncs = self._versions(completion)
        return Rollout(
            prompt_id=request.prompt_id,
            source=request.source,
            model=Path(self.settings.model).name,
            weight_version=version,
            index=completion.index,
            token_ids=np.asarray(completion.token_ids, dtype=np.int32),
            logprobs=np.asarray(completion.logprobs.logprobs, dtype=np.float32),
            text=text,
            finish_reason=completion.finish_reason,
            weight_syncs=weight_syncs,
        )

    def _versions(self, completion: Any) -> tuple[int, tuple[tuple[int, int], ...]]:
        """`Rollout.weight_version` and `Rollout.weight_syncs` of a finished completion: here of weights that never
        change.
        """
        return 0, ()

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

    async def sleep(self) -> None:
        """Finish running requests, then give weights and KV cache back to the devices, and sample nothing until woken.

        On CPUs vLLM keeps the memory; all else is the same. Asleep already, it sleeps on.
        """
        if self._asleep != set(MEMORY):
            await self._llm.sleep(level=self.sleep_level, mode="wait")
            self._asleep = set(MEMORY)

    async def wake(self, memory: EngineMemory) -> None:
        """Take one kind of memory back; with the second the engine samples again. See `sleeping` for the order."""
        if memory in self._asleep:
            await self._llm.wake_up([memory])
            self._asleep.remove(memory)

    async def close(self) -> None:
        """Stop the engine and its processes.

        In the loop, where vLLM closes its sockets at once. Called from elsewhere, vLLM leaves that to the loop; if the
        loop is over, garbage collection of the sockets' context can wait for ever.
        """
        self._llm.shutdown(timeout=2)
        # Now, not at interpreter exit: its finaliser would find half of vLLM's modules already gone.
        del self._llm

    async def _generate(self, token_ids: np.ndarray, params: Any) -> Any:
        if self._asleep:
            asleep = " and ".join(memory for memory in MEMORY if memory in self._asleep)
            raise EngineError(f"the {self.settings.source} engine is asleep: wake {asleep} first")
        request_id = f"{self.settings.source}-{next(self._requests)}"
        outputs = self._llm.generate({"prompt_token_ids": token_ids.tolist()}, params, request_id)
        try:
            return [output async for output in outputs][-1]
        except asyncio.CancelledError:
            # vLLM aborts it too, but not the first of n samples when it is cancelled while it adds the others.
            await self._llm.abort(request_id)
            raise

    def _sampling_params(self, request: SampleRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = self.settings.sampling[request.sampling]
        return SamplingParams(
            n=request.count,
            # vLLM samples the k-th of n with seed + k, which is what `first_seed` promises.
            seed=request.first_seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            presence_penalty=sampling.presence_penalty,
            max_tokens=self.settings.max_tokens,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _start_vllm(settings: EngineSettings) -> Any:
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    from s2l_ray.generation.in_process import InProcessLLM
    from s2l_ray.generation.separate import SeparateLLM
    from s2l_ray.weights.vllm_worker import backend_name

    engine = settings.engine
    args = AsyncEngineArgs(
        model=settings.model,
        load_format="auto" if settings.load_weights else "dummy",
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
        tensor_parallel_size=settings.tensor_parallel,
        # Left to itself vLLM sees that it is inside a placement group of Ray's and wants a bundle for each of its
        # workers; an engine has one, with all of its devices.
        distributed_executor_backend="mp" if settings.tensor_parallel > 1 else "uni",
        kv_cache_memory_bytes=settings.kv_cache_bytes,
        # Sizes nothing, since the KV cache is given in bytes; but vLLM does not start unless this share of the device
        # is free, and its 0.92 never is where others sit too.
        gpu_memory_utilization=0.01,
        max_model_len=settings.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        enforce_eager=engine.enforce_eager,
        enable_prefix_caching=True,
        # After temperature, top-p and top-k: the distribution that the token really came from.
        logprobs_mode="processed_logprobs",
        # A model directory's own sampling defaults must not leak into the run's settings.
        generation_config="vllm",
        enable_sleep_mode=settings.sleep and current_platform.is_sleep_mode_available(),
        # Always on: it also makes engine processes end with their parent.
        worker_extension_cls="s2l_ray.weights.vllm_worker.WorkerExtension",
        weight_transfer_config=WeightTransferConfig(backend=backend_name(settings.weight_transfer))
        if settings.weight_transfer
        else None,
        disable_log_stats=True,
        **(_whole_prompts(settings) if current_platform.is_cpu() else {}),
    )
    if settings.own_process and settings.tensor_parallel == 1 and current_platform.is_cpu():
        return InProcessLLM(args)
    return SeparateLLM.from_engine_args(args)


def _whole_prompts(settings: EngineSettings) -> dict[str, Any]:
    """Arguments with which vLLM computes a prompt in one piece, never in chunks.

    vLLM 0.32 dies on CPUs when a prompt with a seed is cut at the end of a full batch: it samples for every chunk and
    wants to turn the generator back, which CPU generators cannot ("CPU Generator does not use offset").
    """
    batch = settings.max_model_len + settings.engine.max_num_seqs  # the longest text beside a token of each other one
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(batch, 2048)}
