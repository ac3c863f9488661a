"""Model shapes against transformers on the meta device, hand counts, and torch's FLOP counter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from s2l_ray.errors import ModelError
from s2l_ray.planner.architecture import FAMILIES, ModelShape
from s2l_ray.planner.known_models import KNOWN_MODELS

PUBLISHED = {
    "Qwen/Qwen3-0.6B-Base": 596_049_920,
    "Qwen/Qwen3-1.7B-Base": 1_720_574_976,
    "Qwen/Qwen3-4B-Base": 4_022_468_096,
    "Qwen/Qwen3-8B-Base": 8_190_735_360,
    "Qwen/Qwen3-14B-Base": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-3-1b-pt": 999_885_952,
}
"""Parameters as the models' pages give them, tied weights once."""

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def transformers_count(config: dict[str, Any]) -> int:
    """Parameters of the model that transformers builds, on the meta device."""
    values = dict(config)
    built = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(built).parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_models_have_the_published_parameters(name: str) -> None:
    assert ModelShape.load(name).parameters == PUBLISHED[name]
    assert transformers_count(KNOWN_MODELS[name]) == PUBLISHED[name]


VARIANTS: list[dict[str, Any]] = [
    # Left out on purpose: head_dim, tie_word_embeddings and biases take each family's defaults.
    *({"model_type": family} | SMALL for family in FAMILIES),
    {"model_type": "qwen3", "attention_bias": True, "tie_word_embeddings": True, "head_dim": 16} | SMALL,
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 24} | SMALL,
    {"model_type": "gemma", "attention_bias": True, "tie_word_embeddings": False} | SMALL,
    {"model_type": "llama"} | {k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
    {"model_type": "qwen2"} | SMALL | {"num_key_value_heads": None},
    {"model_type": "gemma3_text", "head_dim": 8} | SMALL,
]


@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_parameters_equal_transformers(config: dict[str, Any]) -> None:
    assert ModelShape.from_config(config, "test").parameters == transformers_count(config)


def test_an_eight_billion_model_by_hand() -> None:
    shape = ModelShape.load("Qwen/Qwen3-8B-Base")
    attention = 4096 * (32 + 8 + 8) * 128 + 32 * 128 * 4096
    layer = attention + 3 * 4096 * 12288 + 2 * 4096 + 2 * 128
    assert shape.layer_parameters == layer
    assert shape.embedding_parameters == shape.head_parameters == 151936 * 4096
    assert shape.parameters == 36 * layer + 2 * 151936 * 4096 + 4096
    assert shape.kv_bytes_per_token() == 2 * 36 * 8 * 128 * 2  # 144 KiB
    assert shape.largest_tensor == 151936 * 4096


def test_a_tied_head_has_no_parameters_of_its_own() -> None:
    assert ModelShape.load("Qwen/Qwen3-1.7B").head_parameters == 0


def test_flops_by_hand() -> None:
    shape = ModelShape.from_config({"model_type": "qwen3", "head_dim": 8} | SMALL, "test")
    layer = 32 * (4 + 2 + 2) * 8 + 4 * 8 * 32 + 3 * 32 * 80  # multiply-adds of one token in one layer
    assert shape.forward_flops(1, 0) == 2 * (3 * layer + 96 * 32)  # a tied head counts too
    # Scores and weighted values against ten others: 4 heads of 8, in 3 layers.
    assert shape.forward_flops(5, 10) - shape.forward_flops(5, 0) == 5 * 3 * 2 * (2 * 10 * 4 * 8)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_equal_torchs_counter(tied: bool) -> None:
    config = Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=tied, attn_implementation="eager")
    model = Qwen3ForCausalLM(config)
    tokens = 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(2, tokens, dtype=torch.long))
    # Eager attention multiplies with the causal mask's zeros too: every token with all 24.
    shape = ModelShape.from_config(config.to_dict(), "test")
    assert counter.get_total_flops() == shape.forward_flops(2 * tokens, tokens)


def test_a_directory_that_transformers_wrote_is_read(tmp_path: Path) -> None:
    Qwen3Config(**SMALL, head_dim=16).save_pretrained(tmp_path)
    shape = ModelShape.load(str(tmp_path))
    assert (shape.layers, shape.hidden, shape.head_dim, shape.tied) == (3, 32, 16, False)


def test_a_downloaded_model_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--somebody--model"
    commit = "ab" * 20
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text(json.dumps({"model_type": "llama"} | SMALL))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert ModelShape.load("somebody/model").vocab == 96


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mixtral"} | SMALL, r"model_type 'mixtral'.*gemma.*llama.*qwen3"),
        (SMALL, r"model_type None"),
        ({"model_type": "qwen3"} | SMALL | {"hidden_size": "32"}, r"hidden_size.*'32'"),
        ({"model_type": "llama"} | {k: v for k, v in SMALL.items() if k != "vocab_size"}, r"needs vocab_size"),
        ({"model_type": "qwen3"} | SMALL | {"num_key_value_heads": 3}, r"4 attention heads.*3 key-value heads"),
        ({"model_type": "mistral"} | {k: v for k, v in SMALL.items() if k[:8] != "num_key_"}, r"num_key_value_heads"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_error(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        ModelShape.load(str(tmp_path))


def test_an_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Qwen/Qwen3-8b is no .*Known without the Hub: Qwen/Qwen3-8B"):
        ModelShape.load("Qwen/Qwen3-8b")
    with pytest.raises(ModelError, match="is no model directory: it has no config.json"):
        ModelShape.load(str(tmp_path / "not" / "there"))


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not JSON"):
        ModelShape.load(str(tmp_path))
