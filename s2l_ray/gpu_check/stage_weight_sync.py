"""Stage 7: weights go from a trainer to an engine on the same GPU by CUDA IPC, and arrive whole."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.gpu_check.check import Check
from s2l_ray.gpu_check.vllm_workload import (
    KV_CACHE_BYTES,
    LARGEST_GAP,
    MIB,
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
from s2l_ray.kinds import Transfer
from s2l_ray.planner.known_models import KNOWN_MODELS
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.messages import merge_chunks

COUNT = 4
VERSIONS = (1, 2, 3)
LARGE = "Qwen/Qwen3-0.6B"
TRANSFER: Transfer = "ipc"


@dataclass(frozen=True)
class Case:
    """A model, and a learning rate with which one update changes its log-probs."""

    shape: dict[str, Any]
    learning_rate: float


def run(check: Check) -> None:
    """Three versions of a small model's weights, and of a large one's."""
    check.need_gpu("CUDA IPC is of GPUs; the tests send weights over gloo")
    need_packages("vllm", "pydantic", "omegaconf")
    large = {key: value for key, value in KNOWN_MODELS[LARGE].items() if key != "model_type"}
    cases = {"small": Case({}, 1e-3), LARGE: Case(large, 1e-4)}
    with tempfile.TemporaryDirectory() as directory:
        for name, case in cases.items():
            with check.part(name):
                model = write_model(Path(directory) / name.replace("/", "-"), **case.shape)
                asyncio.run(_send_versions(check, name, model, case.learning_rate, Path(directory)))


async def _send_versions(check: Check, name: str, model: str, learning_rate: float, directory: Path) -> None:
    """As a colocated run does it: asleep while the trainer works, weights back for the sync, then the cache."""
    from s2l_ray.config import EngineConfig, ObjectiveConfig, TrainerConfig
    from s2l_ray.generation.learner import LearnerEngine
    from s2l_ray.training.trainer import PolicyTrainer
    from s2l_ray.weights.transfers import TRANSFERS

    config = TrainerConfig(learning_rate=learning_rate, micro_batch_tokens=4096)
    trainer = PolicyTrainer(
        model, trainer=config, objective=ObjectiveConfig(), dtype="bfloat16", temperature=1.0, timeout_s=60
    )
    engine_config = EngineConfig(enforce_eager=True)
    prepare_environment(engine_config, directory / "vllm-cache")
    settings = settings_of(model, "learner", engine_config, load_weights=False, weight_transfer=TRANSFER)
    engine = LearnerEngine(settings, prompts_of(model))
    sender = TRANSFERS[TRANSFER].load_sender()([WeightSpec(*row) for row in trainer.weight_specs()])
    scores, text = [], None
    try:
        for version in VERSIONS:
            await _send(check, name, engine, trainer, sender, version)
            sets = await sampled(engine, list(prompts_of(model)), COUNT, version)
            text = max((r.token_ids for r in rollouts_of(sets)), key=len) if text is None else text
            scores.append(float((await engine.score(text)).mean()))
            await engine.sleep()
            gap = trainer.update([verified(sets)])["logprob_gap/learner"]
            check.expect(gap <= LARGEST_GAP, f"{name}, version {version}: log-probs are {gap:.4f} from the trainer's")
        check.measure(**{f"{name}: mean log-prob of one text": scores})
        check.expect(len(set(scores)) == len(VERSIONS), f"{name}: every version changes the engine's log-probs")
    finally:
        await engine.close()
        trainer.close()


async def _send(check: Check, name: str, engine: Any, trainer: Any, sender: Any, version: int) -> None:
    memory = {"before": used_mib()}
    await engine.sleep()
    memory["asleep"] = used_mib()
    await engine.wake("weights")
    memory["weights"] = used_mib()
    begin, chunks = time.perf_counter(), 0
    await engine.begin_weight_sync()
    sender.begin(trainer.weights())
    while (chunk := sender.next_chunk()) is not None:
        await engine.receive(merge_chunks([chunk]))
        chunks += 1
    memory["last chunk"] = used_mib()
    await engine.finish_weight_sync(version)
    sender.end()
    seconds = time.perf_counter() - begin
    size = sum(WeightSpec(*row).nbytes for row in trainer.weight_specs())
    await engine.wake("kv_cache")
    memory["awake"] = used_mib()
    rate = size / seconds / 1e9
    check.measure(**{f"{name}, version {version}": {"seconds": seconds, "gb_per_s": rate, "chunks": chunks}})
    check.say(f"{name}, version {version}: {size / 1e6:.0f} MB in {chunks} chunks, {seconds:.3f} s, {rate:.2f} GB/s")
    say_memory(check, f"{name}, version {version}", memory)
    given = memory["awake"] - memory["asleep"]
    check.expect(given >= 0.9 * KV_CACHE_BYTES / MIB, f"{name}: asleep the engine has given back {given:.0f} MiB")
