"""Stage 4: the allocator's peaks in an update and in a weight sync, against the plan's memory ledger."""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from s2l_ray.config import Config, DataConfig, ModelsConfig, ObjectiveConfig, RolloutConfig, TrainerConfig
from s2l_ray.gpu_check.check import Check
from s2l_ray.gpu_check.cpu_meter import metered
from s2l_ray.gpu_check.workload import groups_of, write_qwen3
from s2l_ray.kinds import TorchDevice, Transfer
from s2l_ray.machine.device_memory import give_back_cached
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.known_models import KNOWN_MODELS
from s2l_ray.planner.memory import Ledger, TrainerMemory, trainer_ledger
from s2l_ray.rollouts.records import RolloutGroup
from s2l_ray.training.trainer import PolicyTrainer
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.gloo_sender import GlooSender
from s2l_ray.weights.sizes import GPU_CHUNK_BYTES

MIB = 2**20
BANDS = {"idle": 0.02, "update": 0.1, "transfer": 0.1}
"""Bounds on |allocated - ledger| / ledger."""
WORK_SPACE = 64 * MIB
"""Work space of cuBLAS, which torch allocates as a tensor; the ledger counts it in a process's context."""
CACHED = 64 * MIB
"""Bytes that torch may keep beyond 110 % of what is allocated once its cache was emptied: blocks are cut from segments,
which are freed as a whole."""


class Sizes(NamedTuple):
    """Tokens of a case. All rollouts have the full length, since the ledger is of the worst case."""

    prompt: int
    response: int
    micro_batch: int
    chunk: int


ON_CPU = Sizes(32, 96, 512, 64)
ON_GPU = Sizes(256, 768, 8192, 1024)
NARROW = {
    "model_type": "qwen3",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 8192,
    "tie_word_embeddings": True,
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "layers recomputed": ({}, {"gradient_checkpointing": "on"}),
    "three layers recomputed": ({}, {"recomputed_layers": 3}),
    "layers kept whole": ({}, {"gradient_checkpointing": "on", "reshard_after_forward": False}),
    "all activations kept": ({}, {"gradient_checkpointing": "off"}),
    "chunks of 8,192": ({}, {"gradient_checkpointing": "on", "logprob_chunk_tokens": 8192}),
    "reference": ({"kl": 0.1}, {"gradient_checkpointing": "on"}),
    "adapters": ({}, {"gradient_checkpointing": "on", "lora_rank": 16}),
    "off-loaded": ({"kl": 0.1, "reference_offload": True}, {"gradient_checkpointing": "on", "cpu_offload": True}),
}
"""Options of objective and trainer."""


class TrainerBytes(NamedTuple):
    """Bytes of tensors at three moments."""

    idle: int
    """Between updates."""
    update: int
    """At the peak of an update."""
    transfer: int
    """At the peak of handing out the weights, beyond `idle`."""


def run(check: Check) -> None:
    """Compare the ledger with the allocator, option by option."""
    model, sizes = (KNOWN_MODELS["Qwen/Qwen3-0.6B"], ON_GPU) if check.cuda else (NARROW, ON_CPU)
    with tempfile.TemporaryDirectory() as directory:
        shape = {key: value for key, value in model.items() if key != "model_type"}
        device, dtype = ("cuda", torch.bfloat16) if check.cuda else ("cpu", torch.float32)
        path = write_qwen3(Path(directory), dtype=dtype, device=device, **shape)
        for name, (objective, trainer) in CASES.items():
            if "lora_rank" in trainer and importlib.util.find_spec("peft") is None:
                check.say(f"left out: {name} (peft is not installed)")
                continue
            with check.part(name):
                config = _config(path, sizes, objective, trainer, check.cuda)
                transfers = (_transfer(check),)
                ledger = trainer_ledger(ModelShape.load(path), config, 1, cuda=check.cuda, transfers=transfers)
                _compare(check, name, ledger, (_on_gpu if check.cuda else _on_cpu)(check, name, config))
    check.need_gpu("the ledger agrees with the CPU's allocator")


def _transfer(check: Check) -> Transfer:
    return "ipc" if check.cuda else "gloo"


def _compare(check: Check, name: str, ledger: TrainerMemory, usage: TrainerBytes) -> None:
    said = TrainerBytes(_tensors(ledger.idle), _tensors(ledger.update), ledger.weight_sync["transfer_buffers"])
    rows = {}
    for moment, predicted, found in zip(TrainerBytes._fields, said, usage, strict=True):
        rows[moment] = {"ledger_mib": predicted / MIB, "allocated_mib": found / MIB}
        text = f"{name}, {moment}: {found / MIB:.0f} MiB allocated, {predicted / MIB:.0f} by the ledger"
        allowed = BANDS[moment] * predicted + WORK_SPACE * check.cuda
        share = f" ({(found - predicted) / predicted:+.1%})" if predicted else ""
        check.expect(abs(found - predicted) <= allowed, text + share)
    check.measure(**{name: rows | {"items_mib": {item: size / MIB for item, size in ledger.update.items()}}})


def _tensors(ledger: Ledger) -> int:
    return sum(ledger.values()) - ledger["context"]


def _config(path: str, sizes: Sizes, objective: dict[str, Any], trainer: dict[str, Any], cuda: bool) -> Config:
    """A step of 4 prompts with 8 rollouts each, one mini-batch."""
    return Config(
        models=ModelsConfig(learner=path, explorer=path, dtype="bfloat16" if cuda else "float32"),
        data=DataConfig(train="none", max_prompt_tokens=sizes.prompt),
        rollout=RolloutConfig(group_size=8, prompts_per_step=4, max_tokens=sizes.response),
        objective=ObjectiveConfig(**objective),
        trainer=TrainerConfig(
            **{"micro_batch_tokens": sizes.micro_batch, "logprob_chunk_tokens": sizes.chunk} | trainer
        ),
    )


def _trainer(config: Config, device: TorchDevice) -> PolicyTrainer:
    return PolicyTrainer(
        config.models.learner,
        trainer=config.trainer,
        objective=config.objective,
        dtype="bfloat16" if config.models.dtype == "bfloat16" else "float32",
        temperature=1.0,
        timeout_s=120,
        device=device,
    )


def _groups(config: Config) -> list[RolloutGroup]:
    rollout = config.rollout
    lengths = [[rollout.max_tokens] * rollout.group_size] * rollout.prompts_per_step
    vocabulary = ModelShape.load(config.models.learner).vocab
    return groups_of(lengths, prompt_tokens=config.data.max_prompt_tokens, vocabulary=vocabulary)


def _on_cpu(check: Check, name: str, config: Config) -> TrainerBytes:
    """By torch's profiler."""
    groups = _groups(config)
    gc.collect()
    with metered() as first:
        trainer = _trainer(config, "cpu")
        trainer.update([groups])
        gc.collect()
    with metered() as second:
        trainer.update([groups])
    with metered() as weight_sync:
        sender = GlooSender([WeightSpec(*row) for row in trainer.weight_specs()], 0, "127.0.0.1", 60)
        for _ in sender.walk(trainer.weights()):
            pass
    trainer.close()
    return TrainerBytes(first.end, first.end + second.peak, weight_sync.peak)


def _on_gpu(check: Check, name: str, config: Config) -> TrainerBytes:
    gc.collect()
    torch.cuda.empty_cache()
    before, groups = torch.cuda.memory_allocated(), _groups(config)
    trainer = _trainer(config, "cuda")
    try:
        _expect_little_cached(check, f"{name}, after the build")
        trainer.update([groups])
        idle = torch.cuda.memory_allocated() - before
        update = _peak(lambda: trainer.update([groups])) - before
        _expect_little_cached(check, f"{name}, after an update")
        transfer = _peak(lambda: _send_in_chunks(trainer)) - before - idle
        give_back_cached()
        _expect_little_cached(check, f"{name}, after a weight sync")
        free, total = torch.cuda.mem_get_info()
        check.measure(**{f"{name}, context MiB": (total - free - torch.cuda.memory_reserved()) / MIB})
        return TrainerBytes(idle, update, transfer)
    finally:
        trainer.close()


def _peak(work: Callable[[], object]) -> int:
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated()


def _send_in_chunks(trainer: PolicyTrainer) -> None:
    """As `IpcSender` does without vLLM: whole tensors, one after the other, into one buffer that engines map."""
    specs = [WeightSpec(*row) for row in trainer.weight_specs()]
    size = max(GPU_CHUNK_BYTES, *(spec.nbytes for spec in specs))
    buffer, used = torch.empty(size, dtype=torch.uint8, device="cuda"), 0
    for _, tensor in trainer.weights():
        used = 0 if used + tensor.nbytes > size else used
        buffer[used : used + tensor.nbytes].copy_(tensor.contiguous().view(-1).view(torch.uint8))
        used += tensor.nbytes


def _expect_little_cached(check: Check, when: str) -> None:
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    text = f"{when}: {reserved / MIB:.0f} MiB reserved for {allocated / MIB:.0f} MiB of tensors"
    check.expect(reserved <= 1.1 * allocated + CACHED, text)
