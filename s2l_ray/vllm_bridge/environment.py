"""The environment of a process that holds an engine; does not import vLLM."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2l_ray.config import EngineConfig


def engine_environment(engine: EngineConfig) -> dict[str, str]:
    """Environment variables that must be set before vLLM is imported.

    Everything an engine listens on stays on this host's loopback; several engines on one host must not each claim every
    core, nor report usage to anyone.
    """
    # vLLM compiles some sampling helpers even when the model runs eagerly: half a minute at the first request, with a
    # C++ compiler that a bare machine may not have.
    eager = {"TORCHDYNAMO_DISABLE": "1"} if engine.enforce_eager else {}
    # On GPUs vLLM's sampler assumes that FlashInfer is installed, and fails while the engine starts.
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
        }
        | nccl_environment()
    )


def nccl_environment() -> dict[str, str]:
    """What trainer ranks and engines must agree on, or a common group hangs while it forms: as the run's driver has it.

    The default is what earlier versions of vLLM set.
    """
    return {"NCCL_CUMEM_ENABLE": os.environ.get("NCCL_CUMEM_ENABLE", "0")}
