"""Adapters: nothing changes at zero, only they are trained, and engines get merged weights under the usual names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from s2l_ray.errors import ConfigError, ModelError
from s2l_ray.training.checkpoint_model import write_adapter, write_checkpoint_model
from s2l_ray.training.logprobs import chunked_scores
from s2l_ray.training.trainer import PolicyTrainer
from s2l_ray.training.update import all_sequences
from s2l_ray.weights.digest import tensor_digest
from tests.support.training_models import (
    GRADIENT_READABLE,
    make_trainer,
    objective,
    random_groups,
    random_model,
    trainer_config,
    weights_of,
    write_model,
)

RANK, ALPHA = 3, 12.0


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def model_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {f: write_model(f, tmp_path_factory.mktemp("models") / f) for f in ("qwen3", "llama")}


def lora_trainer(model_dir: str, dtype: str = "float32", **changes: Any) -> PolicyTrainer:
    goal = changes.pop("goal", objective())
    config = trainer_config(**{"lora_rank": RANK, "lora_alpha": ALPHA, "weight_decay": 0.0} | changes)
    return make_trainer(model_dir, config=config, goal=goal, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_at_zero_it_is_the_model(family: str, dtype: str, model_dirs: dict[str, str]) -> None:
    plain = make_trainer(model_dirs[family], dtype=dtype)
    specs, weights = plain.weight_specs(), weights_of(plain)
    metrics = plain.update([random_groups(3)])
    plain.close()
    trainer = lora_trainer(model_dirs[family], dtype)
    assert trainer.weight_specs() == specs
    got = weights_of(trainer)
    assert list(got) == list(weights)
    assert all(torch.equal(got[name], weights[name]) for name in weights)
    adapted = trainer.update([random_groups(3)])
    for name in ("loss", "logprob/learner", "logprob/explorer"):
        assert adapted[name] == pytest.approx(metrics[name], abs=1e-6), name


def test_the_adapters_gradient_is_the_weights_by_the_chain_rule(model_dirs: dict[str, str]) -> None:
    """With W + s B A and B = 0: dL/dB = s dL/dW A^T and dL/dA = 0."""
    name = "model.layers.1.self_attn.o_proj"
    start = dict(random_model("qwen3").named_parameters())[f"{name}.weight"].detach()
    plain = make_trainer(model_dirs["qwen3"], config=trainer_config(**GRADIENT_READABLE))
    plain.update([random_groups(3)])
    moved = start - weights_of(plain)[f"{name}.weight"]  # g / (|g| + 1)
    gradient = moved / (1 - moved.abs())
    plain.close()

    trainer = lora_trainer(model_dirs["qwen3"], **GRADIENT_READABLE)
    layer = trainer.policy.model.get_submodule(name)
    a = layer.lora_A["default"].weight.full_tensor().detach().clone()
    trainer.update([random_groups(3)])
    expected = (ALPHA / RANK) * gradient @ a.T
    b = layer.lora_B["default"].weight.full_tensor().detach()
    torch.testing.assert_close(b, -expected / (expected.abs() + 1), rtol=0, atol=1e-5)
    assert torch.equal(layer.lora_A["default"].weight.full_tensor(), a)
    torch.testing.assert_close(weights_of(trainer)[f"{name}.weight"], start + (ALPHA / RANK) * b @ a)


def test_only_adapters_are_trained_and_kept_in_float32(model_dirs: dict[str, str]) -> None:
    trainer = lora_trainer(model_dirs["qwen3"], "bfloat16", lora_targets=("q_proj", "down_proj"))
    trained = {n for n, p in trainer.policy.named_parameters() if p.requires_grad}
    assert len(trained) == len(trainer.parameters) == 2 * 2 * 2  # layers, targets, A and B
    assert all("lora_" in n and ("q_proj" in n or "down_proj" in n) for n in trained)
    kinds = {(p.requires_grad, p.dtype) for p in trainer.policy.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    before = weights_of(trainer)
    for seed in range(2):
        trainer.update([random_groups(3, seed=seed)])
    changed = {n for n, t in weights_of(trainer).items() if not torch.equal(t, before[n])}
    assert changed == {n for n in before if "q_proj" in n or "down_proj" in n}


def test_merged_weights_are_the_adapted_model(model_dirs: dict[str, str], tmp_path: Path) -> None:
    """The exported directory, without any adapter, has the log-probs that the trainer computes with adapters."""
    trainer = lora_trainer(model_dirs["llama"], learning_rate=0.1)
    for seed in range(3):
        trainer.update([random_groups(3, seed=seed)])
    trainer.export(str(tmp_path))
    merged = trainer.weights().digests()
    expected = trainer.update([random_groups(3)])
    trainer.close()
    assert not list(tmp_path.glob("adapter*"))
    exported = dict(AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())
    base = dict(random_model("llama").named_parameters())
    assert list(exported) == list(base)
    # Digests are those of the merged weights, so that an engine which was sent the base weights is found.
    assert merged == [tensor_digest(weight) for weight in exported.values()]
    missed = [name for name, found in zip(base, merged, strict=True) if tensor_digest(base[name]) != found]
    assert missed == [name for name in base if name.endswith("proj.weight")]
    (tmp_path / "tokenizer.json").write_text("")
    metrics = make_trainer(str(tmp_path)).update([random_groups(3)])
    for name in ("loss", "logprob/learner", "logprob/explorer"):
        assert metrics[name] == pytest.approx(expected[name], abs=1e-5), name


def test_the_reference_is_the_policy_without_its_adapters(model_dirs: dict[str, str]) -> None:
    """No second model is loaded, and the KL is that to the base model's own log-probs."""
    sequences = all_sequences([random_groups(3)])
    plain = make_trainer(model_dirs["qwen3"])
    with torch.no_grad():
        expected = torch.cat([plain.policy(batch).logprobs for batch in plain._pack([sequences])[0]])
    plain.close()
    trainer = lora_trainer(model_dirs["qwen3"], learning_rate=0.1, goal=objective(kl=0.1))
    assert trainer.reference is None
    trained = [p.requires_grad for p in trainer.policy.parameters()]
    first = trainer.update([random_groups(3)])
    assert first["kl"] == 0  # B is zero
    batches = trainer._pack([sequences])[0]
    with torch.no_grad():
        found = torch.cat([trainer._reference_logprobs(batch) for batch in batches])
        policys = torch.cat([trainer.policy(batch).logprobs for batch in batches])
    assert torch.equal(found, expected)
    assert [p.requires_grad for p in trainer.policy.parameters()] == trained
    kl = (torch.exp(expected - policys) - (expected - policys) - 1).mean()  # k3, of every token
    assert kl > 0.001
    assert trainer.update([random_groups(3)])["kl"] == pytest.approx(float(kl), rel=1e-4)


def test_a_checkpoint_goes_on_with_the_adapters(model_dirs: dict[str, str], tmp_path: Path) -> None:
    trainer = lora_trainer(model_dirs["qwen3"])
    trainer.update([random_groups(3)])
    trainer.save(str(tmp_path))
    metrics, weights = trainer.update([random_groups(3, seed=5)]), weights_of(trainer)
    trainer.close()
    resumed = lora_trainer(model_dirs["qwen3"])
    resumed.load(str(tmp_path))
    assert resumed.update([random_groups(3, seed=5)]) == metrics
    assert all(torch.equal(t, weights[n]) for n, t in weights_of(resumed).items())


@pytest.mark.parametrize("built", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_becomes_the_model_that_the_run_would_have_exported(
    dtype: str, built: str, tmp_path: Path
) -> None:
    base = Path(write_model("llama", tmp_path / "base"))
    described = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(described | {"dtype": built}))  # its files are in float32
    trainer = lora_trainer(str(base), dtype, learning_rate=0.1)
    for seed in range(2):
        trainer.update([random_groups(3, seed=seed)])
    trainer.save(str(tmp_path / "checkpoint"))
    trainer.export(str(tmp_path / "run"))
    trainer.close()
    write_checkpoint_model(tmp_path / "checkpoint", base, tmp_path / "model", dtype, lora_alpha=ALPHA)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "model"))
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.dtype == getattr(torch, dtype)
    with pytest.raises(ModelError, match="adapters of another model"):
        other = Path(write_model("qwen3", tmp_path / "other"))
        write_checkpoint_model(tmp_path / "checkpoint", other, tmp_path / "none", dtype, lora_alpha=ALPHA)
    assert not (tmp_path / "none").exists()


def test_adapters_by_themselves_are_what_peft_puts_on_the_learner(model_dirs: dict[str, str], tmp_path: Path) -> None:
    trainer = lora_trainer(model_dirs["qwen3"], learning_rate=0.1, lora_targets=("q_proj", "down_proj"))
    trainer.update([random_groups(3)])
    trainer.save(str(tmp_path / "checkpoint"))
    trainer.close()
    base = Path(model_dirs["qwen3"])
    write_checkpoint_model(tmp_path / "checkpoint", base, tmp_path / "model", "float32", lora_alpha=ALPHA)
    write_adapter(tmp_path / "checkpoint", str(base), tmp_path / "adapter", "float32", lora_alpha=ALPHA)
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    assert with_adapter.peft_config["default"].base_model_name_or_path == str(base)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    text = torch.tensor([[5, 3, 60, 1, 9]])
    with torch.no_grad():
        expected, found, before = (
            model(text).logits for model in (merged, with_adapter, AutoModelForCausalLM.from_pretrained(base))
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - before).abs().max() > 0.01


def test_adapters_are_recomputed_like_layers(model_dirs: dict[str, str]) -> None:
    results = []
    for choice in ("on", "off"):
        trainer = lora_trainer(model_dirs["llama"], gradient_checkpointing=choice, **GRADIENT_READABLE)
        results.append((trainer.update([random_groups(2)]), weights_of(trainer)))
        trainer.close()
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(tensor, results[1][1][name], rtol=0, atol=1e-6)


def test_a_frozen_output_layer_costs_no_gradient() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5)
    gradients = []
    for trained in (True, False):
        weight.requires_grad_(trained)
        out = chunked_scores(hidden, weight, torch.arange(7), temperature=0.7, chunk=3).logprobs
        (given, of_weight, *_) = out.grad_fn.apply(torch.ones(7), None)
        assert (of_weight is not None) == trained
        gradients.append(given)
    assert torch.equal(*gradients)


def test_unknown_targets_are_named(model_dirs: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="trainer.lora_targets: 'query' is no linear layer.*it has down_proj, gate"):
        lora_trainer(model_dirs["llama"], lora_targets=("q_proj", "query"))
