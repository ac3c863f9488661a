"""vLLM's engine arguments for our settings."""

from __future__ import annotations

import os
from typing import Any

from vllm.config import WeightTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from s2l_ray.vllm_bridge.settings import VllmSettings
from s2l_ray.vllm_bridge.worker import backend_name


def engine_arguments(settings: VllmSettings) -> Any:
    """The `AsyncEngineArgs` of vLLM for an engine. What has no argument goes into this process's environment."""
    engine, transfer = settings.engine, settings.weight_transfer
    if current_platform.is_cuda():
        os.environ["VLLM_BATCH_INVARIANT"] = str(int(engine.batch_invariant))  # the processes that compute inherit it
    return AsyncEngineArgs(
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
        # is free, and its default of 0.92 never is where others share the device.
        gpu_memory_utilization=0.01,
        max_model_len=settings.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.batched_tokens(settings.max_model_len, gpu=not current_platform.is_cpu()),
        enforce_eager=engine.enforce_eager,
        enable_prefix_caching=True,
        # After temperature, top-p and top-k: the distribution that the token really came from.
        logprobs_mode="processed_logprobs",
        # A model directory's own sampling defaults must not leak into the run's settings.
        generation_config="vllm",
        enable_sleep_mode=settings.sleep and current_platform.is_sleep_mode_available(),
        # Always on: it also makes engine processes end with their parent.
        worker_extension_cls="s2l_ray.vllm_bridge.worker.WorkerExtension",
        weight_transfer_config=WeightTransferConfig(backend=backend_name(transfer)) if transfer else None,
        disable_log_stats=True,
        # vLLM 0.32 dies on CPUs when a prompt with a seed is cut at the end of a full batch: it samples for every chunk
        # and wants to turn the generator back, which CPU generators cannot ("CPU Generator does not use offset").
        enable_chunked_prefill=False if current_platform.is_cpu() else None,
    )


def runs_in_process(settings: VllmSettings) -> bool:
    """Whether vLLM runs inside this process (`in_process`) instead of in processes of its own (`separate`)."""
    return settings.own_process and settings.tensor_parallel == 1 and current_platform.is_cpu()
