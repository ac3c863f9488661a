"""Stage 3: updates on the GPU against the same updates in float32 on the CPU, on a small random model.

AdamW with eps 1 moves a weight by lr * g / (|g| + 1) at first, so how weights move tells the gradient, and rounding
stays as small as it is: with the usual eps the sign of noise would move a weight as far as a gradient does.
"""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2l_ray.config import ObjectiveConfig, TrainerConfig
from s2l_ray.gpu_check.check import Check
from s2l_ray.gpu_check.workload import groups_of, write_qwen3
from s2l_ray.kinds import Dtype, TorchDevice
from s2l_ray.rollouts.records import RolloutGroup
from s2l_ray.training.process_group import whole
from s2l_ray.training.trainer import PolicyTrainer

VOCABULARY = 512
MODEL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": False,
    "max_position_embeddings": 256,
    "initializer_range": 0.05,
}
LENGTHS = [[1, 7, 40, 90], [3, 64, 17, 30], [25, 1, 2, 80], [60, 60, 60, 60]]
"""Response lengths of four groups."""
PROMPT = 12
READABLE = {"learning_rate": 0.05, "eps": 1.0, "grad_clip": 1e9, "micro_batch_tokens": 256, "logprob_chunk_tokens": 64}
UPDATES = 2
"""The second one meets weights that are not the reference's, and states of AdamW that are not zero."""
BOUNDS = {"float32": 1e-3, "bfloat16": 0.1}
"""Bounds on |change - reference| / |reference| over all weights. Rounding alone makes about 1e-5, and 2e-2 to 5e-2."""
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Options of the updates, and how many mini-batches each has."""

    objective: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    mini_batches: int = 1


CASES = {
    "plain": Case(),
    "two mini-batches": Case(mini_batches=2),
    "kl in the loss": Case({"kl": 0.1}),
    "kl in the reward, entropy": Case({"kl": 0.1, "kl_in": "reward", "entropy": 0.05}),
    "layers recomputed": Case(trainer={"gradient_checkpointing": "on"}),
    "layers compiled": Case(trainer={"compile": True}),
    "layers compiled and recomputed": Case(trainer={"compile": True, "gradient_checkpointing": "on"}, mini_batches=2),
    "adapters": Case(trainer={"lora_rank": 4}, mini_batches=2),
    "weights and reference off-loaded": Case({"kl": 0.1, "reference_offload": True}, {"cpu_offload": True}, 2),
}


def run(check: Check) -> None:
    """Compare updates, case by case, and repeat and resume one."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the deterministic part; cuBLAS reads it once
    with tempfile.TemporaryDirectory() as directory:
        model = write_qwen3(Path(directory) / "model", **MODEL)
        for name, case in CASES.items():
            if case.trainer.get("lora_rank") and importlib.util.find_spec("peft") is None:
                check.say(f"left out: {name} (peft is not installed)")
                continue
            if case.trainer.get("compile") and not check.cuda:
                continue  # a CPU gains nothing, and takes minutes to compile
            with check.part(name):
                _compare(check, name, case, model)
        device: TorchDevice = "cuda" if check.cuda else "cpu"
        with check.part("deterministic updates, save and load"):  # last: determinism stays on in this process
            _repeat_and_resume(check, model, device, Path(directory) / "checkpoint")
    check.need_gpu("updates on the CPU agree in float32 and bfloat16, and go on from a checkpoint")


def _compare(check: Check, name: str, case: Case, model: str) -> None:
    plain = replace(case, trainer=case.trainer | {"compile": False})
    expected, reference = _updated(model, plain, "cpu", "float32")
    runs: list[tuple[TorchDevice, Dtype]] = [("cpu", "bfloat16")]
    if check.cuda:
        runs = [("cuda", "float32"), ("cuda", "bfloat16")]
    for device, dtype in runs:
        found, metrics = _updated(model, case, device, dtype)
        error = difference(found, expected)
        check.measure(**{f"{name}, {dtype}": {"error": error, "metrics": metrics, "reference": reference}})
        check.expect(error <= BOUNDS[dtype], f"{name}, {dtype} on {device}: weights move alike, error {error:.1e}")
        check.expect(metrics["skipped_updates"] == 0, f"{name}, {dtype} on {device}: every step was taken")


def _updated(model: str, case: Case, device: TorchDevice, dtype: Dtype) -> tuple[Weights, dict[str, float]]:
    """The change of every weight, and the metrics of the last update."""
    trainer = _trainer(model, case, device, dtype)
    try:
        before = master_weights(trainer)
        for _ in range(UPDATES):
            metrics = trainer.update(_batches(case.mini_batches))
        return {name: after - before[name] for name, after in master_weights(trainer).items()}, metrics
    finally:
        trainer.close()


def _trainer(model: str, case: Case, device: TorchDevice, dtype: Dtype) -> PolicyTrainer:
    return PolicyTrainer(
        model,
        trainer=TrainerConfig(**READABLE | case.trainer),
        objective=ObjectiveConfig(**case.objective),
        dtype=dtype,
        temperature=0.9,
        max_tokens=max(map(max, LENGTHS)),
        timeout_s=60,
        device=device,
    )


def _batches(count: int) -> list[list[RolloutGroup]]:
    groups = groups_of(LENGTHS, prompt_tokens=PROMPT, vocabulary=VOCABULARY)
    return [groups[i::count] for i in range(count)]


def master_weights(trainer: PolicyTrainer) -> Weights:
    """The weights that are trained, whole, in float32, on the CPU."""
    trained = ((name, p) for name, p in trainer.policy.named_parameters() if p.requires_grad)
    return {name: whole(p.detach().to(trainer.device)).float().cpu().clone() for name, p in trained}


def difference(found: Weights, expected: Weights) -> float:
    """|found - expected| / |expected| over all weights together."""
    apart = sum(float((found[name] - x).double().square().sum()) for name, x in expected.items())
    return math.sqrt(apart / sum(float(x.double().square().sum()) for x in expected.values()))


def _repeat_and_resume(check: Check, model: str, device: TorchDevice, directory: Path) -> None:
    """Two updates, twice, with a checkpoint between the two, and a third time from that checkpoint: the same bits."""
    case = Case({"kl": 0.1}, {"deterministic": True, "gradient_checkpointing": "on"}, 2)
    start = partial(_trainer, model, case, device, "bfloat16")
    ends = []
    for saves in (True, False):
        trainer = start()
        trainer.update(_batches(2))
        if saves:
            trainer.save(str(directory))
        trainer.update(_batches(2))
        ends.append(master_weights(trainer))
        trainer.close()
    check.expect(_same_bits(ends[0], ends[1]), "deterministic updates give the same bits twice")
    trainer = start()
    trainer.load(str(directory))
    trainer.update(_batches(2))
    check.expect(_same_bits(ends[0], master_weights(trainer)), "a loaded checkpoint goes on to the same bits")
    trainer.close()


def _same_bits(one: Weights, other: Weights) -> bool:
    return all(torch.equal(x, other[name]) for name, x in one.items())
