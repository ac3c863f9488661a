"""Small models, prompts and engines for the stages that start vLLM."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from s2l_ray.gpu_check.check import Check, Skip
from s2l_ray.gpu_check.workload import write_qwen3
from s2l_ray.kinds import Source
from s2l_ray.rollouts.records import Prompt, Rollout, RolloutGroup, RolloutSet, Verdict
from s2l_ray.rollouts.requests import ExplorerRequest, LearnerRequest

if TYPE_CHECKING:
    from s2l_ray.config import EngineConfig
    from s2l_ray.generation.engine import EngineSettings, SamplingEngine

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}
"""Logits that are far apart, so that wrong weights show in the log-probs."""
LARGEST_GAP = 0.08
"""Bound on the mean |engine - trainer| of log-probs in bfloat16. Measured: below 0.02."""
PROMPTS = [f"{a} {a + 1} 7 12 : 24 >" for a in range(1, 17)]
KV_CACHE_BYTES = 2**30
MAX_TOKENS = 64
MIB = 2**20


def need_packages(*names: str) -> None:
    """Raise Skip unless these packages can be imported."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise Skip(f"not installed: {', '.join(missing)}")


def write_model(directory: Path, **shape: Any) -> str:
    """A model directory with random bfloat16 weights and the embedded family's tokenizer.

    Args:
        shape: fields of Qwen3Config instead of `SMALL`'s.
    """
    from s2l_ray.miniature.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024} | (shape or SMALL)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = write_qwen3(directory, dtype=torch.bfloat16, device=device, **fields, **ends)
    tokenizer.save_pretrained(directory)
    return path


def prepare_environment(engine: EngineConfig, cache: Path) -> None:
    """Environment variables of an engine's processes, which this process's children inherit."""
    from s2l_ray.vllm_bridge.environment import engine_environment

    os.environ.pop("TORCHDYNAMO_DISABLE", None)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.update(engine_environment(engine))
    os.environ["VLLM_CACHE_ROOT"] = str(cache)
    # This process has used CUDA.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"


def settings_of(model: str, source: Source, engine: EngineConfig, **changes: Any) -> EngineSettings:
    """Settings of an engine that shares its GPU."""
    from s2l_ray.config import SamplingConfig
    from s2l_ray.generation.engine import EngineSettings

    values: dict[str, Any] = {
        "sampling": {"train": SamplingConfig(), "eval": SamplingConfig()},
        "max_tokens": MAX_TOKENS,
        "max_model_len": 256,
        "dtype": "bfloat16",
        "trust_remote_code": False,
        "kv_cache_bytes": KV_CACHE_BYTES,
        "sleep": True,
        "own_process": not torch.cuda.is_available(),
    }
    return EngineSettings(model=model, source=source, engine=engine, **values | changes)


def prompts_of(model: str, count: int = len(PROMPTS)) -> dict[str, Prompt]:
    """`count` prompts by id; after the first 16 the texts repeat."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = {f"{i}": PROMPTS[i % len(PROMPTS)] for i in range(count)}
    ids = {text: np.array(tokenizer(text).input_ids, dtype=np.int32) for text in PROMPTS}
    return {name: Prompt(name, text, text, ids[text], "") for name, text in texts.items()}


def request_of(prompt: str, source: Source, count: int, version: int | None = None) -> ExplorerRequest | LearnerRequest:
    """The same request every time, apart from the weight version."""
    if source == "explorer":
        return ExplorerRequest(1, prompt, count, 1, first_draw=0)
    return LearnerRequest(1, prompt, count, 1, version)


async def sampled(
    engine: SamplingEngine, prompts: list[str], count: int, version: int | None = None
) -> list[RolloutSet]:
    """`count` rollouts of each prompt, all requested at the same time."""
    source = engine.settings.source
    return await asyncio.gather(*[engine.sample(request_of(prompt, source, count, version)) for prompt in prompts])


def verified(sets: list[RolloutSet]) -> list[RolloutGroup]:
    """Groups of these rollouts, every other one right."""
    groups = []
    for one in sets:
        verdicts = [Verdict("right", 1.0) if i % 2 else Verdict("wrong", 0.0) for i in range(len(one.rollouts))]
        groups.append(RolloutGroup.merge([one.scored(verdicts)], len(one.rollouts)))
    return groups


def rollouts_of(sets: list[RolloutSet]) -> list[Rollout]:
    """All of their rollouts, in order."""
    return [rollout for one in sets for rollout in one.rollouts]


def alike(some: list[Rollout], others: list[Rollout]) -> float:
    """Share of the rollouts that have the same tokens in both."""
    pairs = zip(some, others, strict=True)
    return float(np.mean([np.array_equal(a.token_ids, b.token_ids) for a, b in pairs]))


def used_mib() -> float:
    """MiB in use on the GPU, by whoever."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / MIB


def say_memory(check: Check, name: str, moments: dict[str, float]) -> None:
    """Measure and print MiB in use by moment."""
    check.measure(**{f"{name}, GPU MiB": moments})
    check.say(f"{name}, GPU MiB: " + ", ".join(f"{moment} {mib:.0f}" for moment, mib in moments.items()))
