"""Whole updates equal TRL's: its trainer and ours on the same rollouts, weights compared after the optimizer's steps.

Skipped without TRL, which is no dependency. Written against trl 1.16.0: `pip install trl==1.16.0`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from s2l_ray.rollouts.records import RolloutGroup, Verdict
from tests.support.training_models import (
    VOCABULARY,
    make_trainer,
    objective,
    random_groups,
    random_model,
    trainer_config,
    weights_of,
    write_model,
)

pytest.importorskip("trl", reason="needs TRL: pip install trl==1.16.0")

from tests.support.trl_side import trl_trainer

MAX_TOKENS = 9
OPTIMIZER = {"learning_rate": 0.05, "grad_clip": 0.7, "eps": 0.1}
SAME_OPTIMIZER = {"learning_rate": 0.05, "max_grad_norm": 0.7, "adam_epsilon": 0.1, "adam_beta2": 0.99}
END = VOCABULARY - 1


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model("llama", tmp_path_factory.mktemp("model"))


def groups_for_trl(scale: float = 1.0) -> list[RolloutGroup]:
    """Four groups, the third without variance; engine log-probs near the model's; every other response is cut off."""
    rng, model, result = np.random.default_rng(0), random_model("llama"), []
    for i, group in enumerate(random_groups(4, seed=11)):
        rollouts = []
        for k, rollout in enumerate(group.rollouts):
            ids = np.where(np.isin(rollout.token_ids, (0, END)), 1, rollout.token_ids)  # TRL ends a response there
            ids[-1] = END if k % 2 else ids[-1]
            whole = torch.from_numpy(np.concatenate([group.prompt_token_ids, ids]).astype(np.int64))[None]
            with torch.no_grad():
                logp = (model(input_ids=whole).logits[0, -len(ids) - 1 : -1] / 0.8).log_softmax(-1)
            near = logp.gather(1, whole[0, -len(ids) :, None])[:, 0].numpy() + rng.normal(0, 0.5, len(ids))
            changes = {"token_ids": ids, "logprobs": near.astype(np.float32)}
            changes["finish_reason"] = "stop" if k % 2 else "length"
            right = i != 2 and rollout.reward > 0
            changes["verdict"] = Verdict("right" if right else "wrong", scale * right)
            rollouts.append(replace(rollout, **changes))
        result.append(replace(group, rollouts=rollouts))
    return result


CORRECTED = {"correction": {"explorer": "token", "learner": "token"}}
CORRECTED_SEQUENCES = {"correction": {"explorer": "sequence", "learner": "sequence", "mode": "mask", "cap": 3.0}}
NARROW = {"clip_low": 0.02, "clip_high": 0.03}
AS_NARROW = {"epsilon": 0.02, "epsilon_high": 0.03}
IN_TWO = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"aggregation": "sequence", **NARROW}, {"loss_type": "grpo", **AS_NARROW, **IN_TWO}),
    "bnpo": ({"aggregation": "token", **NARROW}, {"loss_type": "bnpo", **AS_NARROW}),
    "dr_grpo": (
        {"aggregation": "constant", "aggregation_tokens": MAX_TOKENS, **NARROW},
        {"loss_type": "dr_grpo", **AS_NARROW, **IN_TWO},
    ),
    "dapo": ({"aggregation": "token", **NARROW}, {"loss_type": "dapo", **AS_NARROW, **IN_TWO}),
    "gspo": (
        {"loss": "gspo", "aggregation": "sequence", **NARROW},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", **AS_NARROW, **IN_TWO},
    ),
    "cispo": ({"loss": "cispo", "clip_low": 1.0, "clip_high": 0.03}, {"loss_type": "cispo", "epsilon_high": 1.03}),
    "sapo": (
        {"loss": "sapo", "aggregation": "sequence"},
        {"loss_type": "sapo", "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05},
    ),
    "k3": (
        {"kl": 0.3, "aggregation": "sequence"},
        {"beta": 0.3, "use_bias_correction_kl": False, "loss_type": "grpo", **IN_TWO},
    ),
    "entropy": ({"entropy": 0.2}, {"entropy_coef": 0.2, "loss_type": "dapo"}),
    "overlong_filter": (
        {"overlong": "filter", "aggregation": "sequence"},
        {"mask_truncated_completions": True, "loss_type": "grpo", **IN_TWO},
    ),
}


def ours(model_dir: str, goal: dict[str, Any], steps: int, scale: float = 1.0) -> tuple[Any, dict[str, torch.Tensor]]:
    """The same groups in each of `steps` optimizer steps, old log-probs being those before the first."""
    goal = {"normalise_std": False} | goal
    trainer = make_trainer(model_dir, goal=objective(**goal), config=trainer_config(weight_decay=0.0, **OPTIMIZER))
    metrics = trainer.update([groups_for_trl(scale)] * steps)
    return metrics, weights_of(trainer)


def trls(model_dir: str, out: Path, steps: int, *, corrected: bool = False, **settings: Any) -> Any:
    scale = settings.pop("scale", 1.0)
    trainer = trl_trainer(
        model_dir,
        groups_for_trl(scale),
        out,
        vocabulary=VOCABULARY,
        **{"temperature": 0.8, "max_completion_length": MAX_TOKENS, "num_iterations": steps, "max_steps": steps}
        | SAME_OPTIMIZER
        | settings,
    )
    if corrected:  # as with log-probs of a vLLM engine
        trainer.use_vllm, trainer._last_loaded_step = True, 0
    trainer.train()
    return trainer


def assert_same_weights(trainer: Any, weights: dict[str, torch.Tensor]) -> None:
    theirs = dict(trainer.model.named_parameters())
    start = dict(random_model("llama").named_parameters())
    assert list(theirs) == list(weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, theirs[name].detach(), rtol=0, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert max((weights[n] - start[n]).abs().max() for n in weights) > 1e-2


@pytest.mark.parametrize("name", list(CASES))
def test_two_optimizer_steps_equal_trls(name: str, model_dir: str, tmp_path: Path) -> None:
    """The second step's ratios are not 1, and with narrow clips a good part of them is clipped."""
    goal, settings = CASES[name]
    theirs = trls(model_dir, tmp_path, 2, scale_rewards="none", **settings)
    metrics, weights = ours(model_dir, goal, 2)
    if "clip_high" in goal:
        assert metrics["clip_fraction"] > 0.05
    assert_same_weights(theirs, weights)


@pytest.mark.parametrize(
    ("goal", "mode"),
    [
        (CORRECTED, {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 2.0}),
        (
            CORRECTED_SEQUENCES,
            {
                "vllm_importance_sampling_mode": "sequence_mask",
                "vllm_importance_sampling_clip_max": 3.0,
                "vllm_importance_sampling_clip_min": 1 / 3,
            },
        ),
    ],
)
def test_importance_weights_equal_trls(
    goal: dict[str, Any], mode: dict[str, Any], model_dir: str, tmp_path: Path
) -> None:
    theirs = trls(model_dir, tmp_path, 2, corrected=True, scale_rewards="none", loss_type="dapo", **mode)
    metrics, weights = ours(model_dir, goal, 2)
    assert 0.1 < metrics["correction_kept/learner"] < 0.95
    assert_same_weights(theirs, weights)


def test_normalised_advantages_equal_trls(model_dir: str, tmp_path: Path) -> None:
    """Rewards of 0 and 1000: TRL adds 1e-4 to the deviation, verl and we 1e-6."""
    theirs = trls(model_dir, tmp_path, 1, scale_rewards="group", loss_type="grpo", scale=1000.0)
    _, weights = ours(model_dir, {"normalise_std": True, "aggregation": "sequence"}, 1, scale=1000.0)
    assert_same_weights(theirs, weights)


def test_rloo_equals_trls(model_dir: str, tmp_path: Path) -> None:
    """TRL's RLOO has one ratio for a response; at the first step, where it is 1, that is a sum over its tokens."""
    theirs = trls(model_dir, tmp_path, 1, estimator="rloo")
    goal = {"advantage": "rloo", "aggregation": "constant", "aggregation_tokens": 1}
    _, weights = ours(model_dir, goal, 1)
    assert_same_weights(theirs, weights)
