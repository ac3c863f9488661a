"""Compiled decoder layers compute what plain ones do, and are compiled once for all layers and all lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from s2l_ray.training.compiled import compile_layers, run_eagerly
from s2l_ray.training.trainer import PolicyTrainer
from tests.support.training_models import (
    make_trainer,
    objective,
    random_groups,
    trainer_config,
    weights_of,
    write_model,
)

UPDATES = ((6, 0), (3, 1), (7, 2))
"""Groups and seed of each: other numbers of tokens and other lengths every time, in several micro-batches."""


@pytest.fixture
def compiled_frames(monkeypatch: pytest.MonkeyPatch):
    """A backend that counts what is compiled and runs it as it is."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)  # set for eager engines, in tests' processes too
    torch._dynamo.reset()
    with torch._dynamo.config.patch(disable=False):
        yield CompileCounterWithBackend("eager")
    torch._dynamo.reset()


def updated(trainer: PolicyTrainer) -> dict[str, torch.Tensor]:
    for count, seed in UPDATES:
        trainer.update([random_groups(count, seed=seed)])
    return weights_of(trainer)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen3", {}),
        pytest.param("llama", {"lora_rank": 4, "gradient_checkpointing": "on"}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_compiled_layers_give_the_same_updates(
    family: str, options: dict[str, Any], tmp_path: Path, compiled_frames: CompileCounterWithBackend
) -> None:
    model, config, goal = write_model(family, tmp_path), trainer_config(**options), objective(kl=0.01)
    plain = make_trainer(model, config=config, goal=goal)
    expected = updated(plain)
    plain.close()
    compiled = make_trainer(model, config=config, goal=goal)
    for policy in (compiled.policy, compiled.reference):
        compile_layers(policy.model, compiled_frames)
    found = updated(compiled)
    compiled.close()
    assert compiled_frames.frame_count > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_other_lengths_compile_nothing_again(tmp_path: Path, compiled_frames: CompileCounterWithBackend) -> None:
    trainer = make_trainer(write_model("qwen3", tmp_path))
    compile_layers(trainer.policy.model, compiled_frames)
    updated(trainer)
    before = compiled_frames.frame_count
    for seed in range(10, 26):
        trainer.update([random_groups(2 + seed % 5, seed=seed)])
    assert compiled_frames.frame_count <= before + 1  # micro-batches whose sequences are all equally long
    before = compiled_frames.frame_count
    run_eagerly(trainer.policy.model)
    torch._dynamo.reset()
    trainer.update([random_groups(3)])
    assert compiled_frames.frame_count == before
    trainer.close()
