"""Learning rates by hand and against transformers' schedules; which parameters are decayed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup

from s2l_ray.config import TrainerConfig
from s2l_ray.errors import ConfigError
from s2l_ray.training.optimizer import build_optimizer, check_lr_schedule, learning_rate, parameter_groups
from tests.support.training_models import random_model


def rates(total: int | None, steps: int, **config: Any) -> list[float]:
    return [learning_rate(TrainerConfig(learning_rate=1.0, **config), done, total) for done in range(steps)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [1, 1, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        ({"lr_schedule": "linear", "warmup_steps": 2}, [0.5, 1, 1, 0.75, 0.5, 0.25, 0]),
        # 0.2 + 0.8 * (1, 3/4, 1/2, 1/4, 0)
        ({"lr_schedule": "linear", "warmup_steps": 2, "lr_min_ratio": 0.2}, [0.5, 1, 1, 0.8, 0.6, 0.4, 0.2]),
        # (1 + cos(pi * (0, 1/6, 1/3, 1/2, 2/3, 5/6, 1))) / 2
        ({"lr_schedule": "cosine"}, [1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873, 0]),
        # 0.5 + 0.5 * (1 + cos(pi * (0, 1/4, 1/2, 3/4, 1))) / 2
        (
            {"lr_schedule": "cosine", "warmup_steps": 2, "lr_min_ratio": 0.5},
            [0.5, 1, 1, 0.9267767, 0.75, 0.5732233, 0.5],
        ),
    ],
)
def test_learning_rates_by_hand(config: dict[str, Any], expected: list[float]) -> None:
    # A run of six steps; a seventh (of a run that was made longer and shorter again) stays at the minimum.
    assert rates(6, 7, **config) == pytest.approx(expected, abs=1e-7)


def transformers_rates(make: Any, steps: int, **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **options)
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def test_after_the_warm_up_it_is_transformers() -> None:
    # Their warm-up starts at a rate of 0, ours one step further: no step is without effect.
    options = {"num_warmup_steps": 5, "num_training_steps": 37}
    theirs = transformers_rates(get_linear_schedule_with_warmup, 37, **options)
    assert rates(37, 37, lr_schedule="linear", warmup_steps=5)[5:] == pytest.approx(theirs[5:], abs=1e-12)
    theirs = transformers_rates(get_cosine_with_min_lr_schedule_with_warmup, 37, min_lr_rate=0.1, **options)
    ours = rates(37, 37, lr_schedule="cosine", warmup_steps=5, lr_min_ratio=0.1)
    assert ours[5:] == pytest.approx(theirs[5:], abs=1e-12)
    assert ours[:4] == pytest.approx(theirs[1:5])


def test_a_rate_that_is_not_defined_is_an_error() -> None:
    check_lr_schedule(TrainerConfig(warmup_steps=9), None)
    check_lr_schedule(TrainerConfig(warmup_steps=9, lr_schedule="linear"), 10)
    with pytest.raises(ConfigError, match="trainer.lr_schedule: linear needs total_steps"):
        check_lr_schedule(TrainerConfig(lr_schedule="linear"), None)
    with pytest.raises(ConfigError, match=r"trainer.warmup_steps \(9\) leaves none of the run's 9 optimizer steps"):
        check_lr_schedule(TrainerConfig(lr_schedule="cosine", warmup_steps=9), 9)


def test_the_optimizer_steps_of_a_run() -> None:
    pytest.importorskip("omegaconf")
    from s2l_ray.config import parse_config

    sections = {"models": {"learner": "a", "explorer": "b"}, "data": {"train": "c"}}
    run = {"rollout": {"prompts_per_step": 12, "group_size": 4}, "schedule": {"steps": 5, "mix_steps": 3}}
    assert parse_config(sections | run).optimizer_steps == 5
    assert parse_config(sections | run | {"objective": {"mini_batch_prompts": 4}}).optimizer_steps == 15
    # G_w = 4, 2, 0, 0, 0: only the second step has rollouts of both sources.
    separate = {"objective": {"mini_batch_prompts": 4, "grouping": "separate"}}
    assert parse_config(sections | run | separate).optimizer_steps == 18


def decayed(model: nn.Module, **config: Any) -> set[str]:
    """Names of the parameters that shrink when their gradient is zero."""
    optimizer = build_optimizer(model, TrainerConfig(learning_rate=0.5, **config))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.norm = nn.LayerNorm(3)
        self.linear = nn.Linear(3, 3)
        self.head = nn.Linear(3, 4, bias=False)
        for p in self.parameters():
            nn.init.ones_(p)


def test_norms_biases_and_embeddings_are_not_decayed() -> None:
    assert decayed(Small(), weight_decay=0.1) == {"linear.weight", "head.weight"}
    assert decayed(Small(), weight_decay=0.1, decay_norms_and_embeddings=True) == {
        "embedding.weight", "norm.weight", "norm.bias", "linear.weight", "linear.bias", "head.weight",
    }  # fmt: skip
    assert decayed(Small()) == set()
    tied = Small()
    tied.head.weight = tied.embedding.weight
    assert decayed(tied, weight_decay=0.1) == {"linear.weight"}
    frozen = Small()
    frozen.linear.weight.requires_grad_(False)
    assert decayed(frozen, weight_decay=0.1) == {"head.weight"}


def test_of_a_real_architecture_the_matrices_are_decayed() -> None:
    model = random_model("qwen3")
    names = {n for n, _ in model.named_parameters() if n.endswith("proj.weight") or n == "lm_head.weight"}
    assert decayed(model, weight_decay=0.1) == names
    assert any(n.endswith("q_norm.weight") for n, _ in model.named_parameters())


def test_states_that_are_there_from_the_beginning_change_nothing() -> None:
    """Against AdamW that makes them in its first step; all zeros, so that only their place in memory differs."""
    ours, theirs = (nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = TrainerConfig(learning_rate=0.1, weight_decay=0.5)
    optimizers = build_optimizer(ours, config), torch.optim.AdamW(parameter_groups(theirs, config), lr=0.1, fused=True)
    assert [set(optimizer.state) for optimizer in optimizers] == [set(ours.parameters()), set()]
    optimizers[1].param_groups[0]["weight_decay"] = 0.5
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    state = optimizers[0].state[ours.weight]
    assert {name: value.dtype for name, value in state.items()} == {
        name: value.dtype for name, value in optimizers[1].state[theirs.weight].items()
    }


@pytest.mark.parametrize(
    ("options", "on_cuda", "on_cpus"),
    [({}, 1, 1), ({"cpu_offload": True}, 8, 1), ({"cpu_offload": True, "threads": 3}, 3, 3), ({"threads": 2}, 2, 2)],
    ids=str,
)
def test_an_optimizer_on_the_host_of_a_gpu_has_several_threads(
    options: dict[str, Any], on_cuda: int, on_cpus: int
) -> None:
    config = TrainerConfig(**options)
    assert (config.threads_on(cuda=True), config.threads_on(cuda=False)) == (on_cuda, on_cpus)
