"""Start a vLLM engine within this process and print, as JSON, the KV cache that it allocated.

    python -m tests.support.engine_memory_probe MODEL_DIR KV_CACHE_BYTES MAX_MODEL_LEN

`refused` in its answer is what vLLM says to one byte less.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from s2l_ray.config import EngineConfig
from s2l_ray.vllm_bridge.environment import engine_environment


def start(model_dir: str, kv_cache_bytes: int, max_model_len: int) -> Any:
    from vllm import LLM

    return LLM(
        model=model_dir,
        dtype="bfloat16",
        kv_cache_memory_bytes=kv_cache_bytes,
        max_model_len=max_model_len,
        enforce_eager=True,
        enable_prefix_caching=True,
    )


def allocated(llm: Any) -> dict[str, int]:
    """Of the engine's KV cache tensors, and how the scheduler counts them."""
    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker
    tensors = getattr(worker, "worker", worker).model_runner.kv_caches
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    cache = llm.llm_engine.vllm_config.cache_config
    return {
        "bytes": sum(storages.values()),
        "blocks": cache.num_gpu_blocks,
        "block_tokens": cache.block_size,
    }


def main() -> None:
    model_dir, kv_cache_bytes, max_model_len = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answer: dict[str, Any] = {}
    try:
        start(model_dir, kv_cache_bytes - 1, max_model_len)
    except ValueError as error:
        answer["refused"] = str(error)
    answer |= allocated(start(model_dir, kv_cache_bytes, max_model_len))
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    os.environ |= engine_environment(EngineConfig(enforce_eager=True)) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    main()
