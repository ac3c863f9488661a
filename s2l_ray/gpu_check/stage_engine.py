"""Stage 6: vLLM's engines sample, sleep and wake, with the trainer's log-probs, also in batch-invariant mode."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

from s2l_ray.gpu_check.check import Check
from s2l_ray.gpu_check.vllm_workload import (
    KV_CACHE_BYTES,
    LARGEST_GAP,
    MIB,
    PROMPTS,
    alike,
    need_packages,
    prepare_environment,
    prompts_of,
    rollouts_of,
    sampled,
    say_memory,
    settings_of,
    used_mib,
    verified,
    write_model,
)
from s2l_ray.planner.known_models import KNOWN_MODELS
from s2l_ray.rollouts.records import RolloutSet

COUNT = 4
RATED = "Qwen/Qwen3-0.6B"
"""The model whose shape is used to measure rates."""
RATED_PROMPTS, RATED_COUNT, RATED_TOKENS = 64, 4, 256
LEAST_SECONDS = 150.0
"""An engine that compiles is not started with less left."""
SLEEPS = 0.9
"""Share of the KV cache that a sleeping engine must have given back at least, whatever else it gives back."""


def run(check: Check) -> None:
    """Start engines of a small model, then some of a real size."""
    check.need_gpu("nothing was started: the tests start engines on CPUs")
    need_packages("vllm", "pydantic", "omegaconf")
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(Path(directory) / "small")
        with check.part("a small model"):
            _sleep_wake_and_compare(check, model, Path(directory))
        with check.part("batch-invariant mode"):
            asyncio.run(_repeats_in_any_batch(check, model, Path(directory)))
        shape = {key: value for key, value in KNOWN_MODELS[RATED].items() if key != "model_type"}
        rated = write_model(Path(directory) / "rated", **shape)
        for invariant in (False, True):
            name = f"{RATED}{', batch-invariant' if invariant else ''}"
            if check.seconds_left < LEAST_SECONDS:
                check.say(f"left out: {name} (no time)")
                continue
            with check.part(name):
                asyncio.run(_rate(check, name, rated, invariant, Path(directory)))


def _sleep_wake_and_compare(check: Check, model: str, directory: Path) -> None:
    sets = asyncio.run(_sleep_and_wake(check, model, directory))
    gap = _trainer_gap(model, sets)
    check.measure(mean_logprob_gap=gap)
    check.expect(gap <= LARGEST_GAP, f"the engine's log-probs are the trainer's: {gap:.4f} apart in the mean")


async def _sleep_and_wake(check: Check, model: str, directory: Path) -> list[RolloutSet]:
    """Rollouts of all prompts, after checks of sleep level 1."""
    from s2l_ray.config import EngineConfig
    from s2l_ray.generation.engine import SamplingEngine

    engine = await _started(check, "small", SamplingEngine, model, EngineConfig(enforce_eager=True), directory)
    try:
        prompts = list(prompts_of(model))
        before = await sampled(engine, prompts, COUNT)
        memory = {"awake": used_mib()}
        for name, call in (
            ("asleep", engine.sleep),
            ("weights back", lambda: engine.wake("weights")),
            ("cache back", lambda: engine.wake("kv_cache")),
        ):
            await call()
            memory[name] = used_mib()
        say_memory(check, "small", memory)
        given = memory["awake"] - memory["asleep"]
        check.expect(given >= SLEEPS * KV_CACHE_BYTES / MIB, f"asleep it has given back {given:.0f} MiB")
        after = rollouts_of(await sampled(engine, prompts, COUNT))
        same = alike(rollouts_of(before), after)
        check.expect(same == 1.0, f"{same:.0%} of its rollouts are the same after it slept and woke")
        return before
    finally:
        await engine.close()


async def _started(
    check: Check,
    name: str,
    kind: Any,
    model: str,
    engine: Any,
    directory: Path,
    prompts: int = len(PROMPTS),
    **changes: Any,
) -> Any:
    prepare_environment(engine, directory / "vllm-cache")
    begin = time.perf_counter()
    started = kind(settings_of(model, "explorer", engine, **changes), prompts_of(model, prompts))
    check.measure(**{f"{name}: start s": time.perf_counter() - begin})
    return started


def _trainer_gap(model: str, sets: list[RolloutSet]) -> float:
    """Mean |engine - trainer| of the log-probs of rollouts, from an update on them."""
    from s2l_ray.config import ObjectiveConfig, TrainerConfig
    from s2l_ray.training.trainer import PolicyTrainer

    trainer = PolicyTrainer(
        model, trainer=TrainerConfig(), objective=ObjectiveConfig(), dtype="bfloat16", temperature=1.0, timeout_s=60
    )
    try:
        return trainer.update([verified(sets)])["logprob_gap/explorer"]
    finally:
        trainer.close()
        del trainer
        gc.collect()


async def _repeats_in_any_batch(check: Check, model: str, directory: Path) -> None:
    """Every prompt with all others, and alone."""
    from s2l_ray.config import EngineConfig
    from s2l_ray.generation.engine import SamplingEngine

    engine = EngineConfig(enforce_eager=True, batch_invariant=True)
    started = await _started(check, "small, batch-invariant", SamplingEngine, model, engine, directory)
    try:
        prompts = list(prompts_of(model))
        together = rollouts_of(await sampled(started, prompts, COUNT))
        alone = [rollout for prompt in prompts for rollout in rollouts_of(await sampled(started, [prompt], COUNT))]
        same = alike(together, alone)
        check.expect(same == 1.0, f"{same:.0%} of its rollouts are the same in a batch and alone")
        bits = all((a.logprobs == b.logprobs).all() for a, b in zip(together, alone, strict=True) if same == 1.0)
        check.expect(bits, "and so are their log-probs, to the bit")
    finally:
        await started.close()


async def _rate(check: Check, name: str, model: str, invariant: bool, directory: Path) -> None:
    """Tokens per second of an engine with compilation and CUDA graphs, its memory asleep, and the effect of batches."""
    from s2l_ray.config import EngineConfig
    from s2l_ray.generation.engine import SamplingEngine

    changes = {"max_tokens": RATED_TOKENS, "max_model_len": 512, "kv_cache_bytes": 8 * KV_CACHE_BYTES}
    empty = used_mib()
    engine = EngineConfig(batch_invariant=invariant)
    started = await _started(check, name, SamplingEngine, model, engine, directory, RATED_PROMPTS, **changes)
    try:
        prompts = list(prompts_of(model, RATED_PROMPTS))
        for _ in range(2):
            begin = time.perf_counter()
            rollouts = rollouts_of(await sampled(started, prompts, RATED_COUNT))
            seconds = time.perf_counter() - begin
        tokens = sum(len(rollout.token_ids) for rollout in rollouts)
        check.measure(**{f"{name}: tokens/s": tokens / seconds})
        memory = {"before": empty, "awake": used_mib()}
        begin = time.perf_counter()
        await started.sleep()
        slept = time.perf_counter()
        memory["asleep"] = used_mib()
        await started.wake("weights")
        await started.wake("kv_cache")
        check.measure(**{f"{name}: sleep s": slept - begin, f"{name}: wake s": time.perf_counter() - slept})
        say_memory(check, name, memory)
    finally:
        await started.close()
