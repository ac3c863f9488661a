"""AdamW over sharded parameters: what is decayed, and the learning rate of every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from s2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from s2l_ray.config import TrainerConfig


def build_optimizer(model: nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW over what requires gradients. Build it after FSDP: it keeps the shards, not the whole parameters.

    Its states are there from the beginning. AdamW itself makes them in its first step, on a GPU in memory that the
    update has just freed, and what is left of those blocks could not be given back to the engines any more.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def parameter_groups(model: nn.Module, config: TrainerConfig) -> list[dict[str, Any]]:
    """One group, or two if some parameters are not decayed: norms, biases (vectors, whole or sharded) and embeddings.

    An output layer that is tied to the embedding is that embedding; one of its own is a matrix like others.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.weight_decay == 0 or config.decay_norms_and_embeddings:
        return [{"params": trained}]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    exempt = [p.ndim < 2 or id(p) in embeddings for p in trained]
    groups: list[dict[str, Any]] = [
        {"params": [p for p, e in zip(trained, exempt, strict=True) if not e]},
        {"params": [p for p, e in zip(trained, exempt, strict=True) if e], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(config: TrainerConfig, done: int, total: int | None) -> float:
    """The rate of the optimizer step that follows `done` of the run's `total` steps; the formulas are at TrainerConfig.

    After the warm-up it is what transformers' get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup give.
    """
    warmup = config.warmup_steps
    if done < warmup:
        return config.learning_rate * ((done + 1) / warmup)
    if config.lr_schedule == "constant":
        return config.learning_rate
    if total is None:
        raise _needs_total(config)
    progress = min(1.0, (done - warmup) / (total - warmup))
    left = 1 - progress if config.lr_schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (config.lr_min_ratio + (1 - config.lr_min_ratio) * left)


def check_lr_schedule(config: TrainerConfig, total: int | None) -> None:
    """Raise ConfigError if the learning rate of a run of `total` optimizer steps is not defined."""
    if config.lr_schedule != "constant" and total is None:
        raise _needs_total(config)
    if total is not None and (problem := config.lr_schedule_problem(total)):
        raise ConfigError(problem)


def _needs_total(config: TrainerConfig) -> ConfigError:
    return ConfigError(f"trainer.lr_schedule: {config.lr_schedule} needs total_steps, the run's optimizer steps")
