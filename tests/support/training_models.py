"""Tiny random models and rollout groups for the tests of the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from s2l_ray.config import ObjectiveConfig, TrainerConfig
from s2l_ray.rollouts.records import Rollout, RolloutGroup, Verdict
from s2l_ray.training.model import load_causal_lm
from s2l_ray.training.stored_model import StoredTensors, fill
from s2l_ray.training.trainer import PolicyTrainer
from s2l_ray.weights.buckets import WeightSpec, plan_buckets
from tests.support.patience import PATIENCE_S

VOCABULARY = 64
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def random_model(family: str) -> PreTrainedModel:
    """qwen3: query and key norms, untied output layer. llama: tied."""
    torch.manual_seed(7)
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=False))
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))


def write_model(family: str, directory: Path) -> str:
    random_model(family).save_pretrained(directory)
    (directory / "tokenizer.json").write_text('{"stands for": "a tokenizer"}')
    return str(directory)


def whole_model(directory: str) -> PreTrainedModel:
    """The model of a directory as the trainer builds it, with all of its weights, on the CPU."""
    model = load_causal_lm(directory)
    fill(model, StoredTensors(directory), torch.device("cpu"))
    return model


def random_groups(count: int, size: int = 4, seed: int = 0, rewards: list[float] | None = None) -> list[RolloutGroup]:
    """Groups of 3 to 5 prompt and 1 to 9 response tokens, half explorer's; rewards 1, 0, 0, ... unless given."""
    rng = np.random.default_rng(seed)
    groups = []
    for g in range(count):
        rollouts = []
        for k in range(size):
            length = int(rng.integers(1, 10))
            reward = float(k == g % size) if rewards is None else rewards[k]
            rollouts.append(
                Rollout(
                    prompt_id=f"p{g}",
                    source="explorer" if k < size // 2 else "learner",
                    model="tiny",
                    weight_version=0,
                    index=k,
                    token_ids=rng.integers(0, VOCABULARY, length).astype(np.int32),
                    logprobs=rng.normal(-4, 1, length).astype(np.float32),
                    text="",
                    finish_reason="stop",
                    verdict=Verdict("right" if reward else "wrong", reward),
                )
            )
        prompt = rng.integers(0, VOCABULARY, int(rng.integers(3, 6))).astype(np.int32)
        groups.append(RolloutGroup(f"p{g}", prompt, rollouts))
    return groups


def objective(**changes: Any) -> ObjectiveConfig:
    return ObjectiveConfig(**changes)


def trainer_config(**changes: Any) -> TrainerConfig:
    values = {
        "learning_rate": 1e-2,
        "betas": (0.9, 0.99),
        "eps": 1e-4,
        "weight_decay": 0.01,
        "warmup_steps": 0,
        "grad_clip": 0.5,
        "micro_batch_tokens": 64,
        "logprob_chunk_tokens": 16,
        "threads": 1,
    }
    return TrainerConfig(**values | changes)


GRADIENT_READABLE = {"learning_rate": 1.0, "eps": 1.0, "weight_decay": 0.0, "grad_clip": 1e9}
"""AdamW's first step is then -g / (|g| + 1): weights after it tell the gradient, noise is not blown up to a sign."""


def make_trainer(model_dir: str, *, goal: ObjectiveConfig | None = None, **options: Any) -> PolicyTrainer:
    config = options.pop("config", None) or trainer_config()
    values: dict[str, Any] = {
        "dtype": "float32",
        "temperature": 0.8,
        "timeout_s": PATIENCE_S,
        "device": "cpu",
    } | options
    return PolicyTrainer(model_dir, trainer=config, objective=goal or objective(), **values)


def weights_of(trainer: PolicyTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.weights()}


def packed_weights_of(trainer: PolicyTrainer) -> dict[str, torch.Tensor]:
    """As `weights_of`, on rank 0, from what is packed for a broadcast, in buckets that cut most tensors."""
    specs = [WeightSpec(*row) for row in trainer.weight_specs()]
    flat = {spec.name: torch.full((spec.numel,), torch.nan, dtype=spec.torch_dtype) for spec in specs}
    source = trainer.weights()
    for bucket in plan_buckets(specs, 1000):
        targets = [flat[piece.spec.name][piece.start : piece.stop] for piece in bucket]
        source.read(bucket, targets if trainer.rank == 0 else None)
    return {spec.name: flat[spec.name].view(spec.shape) for spec in specs}
