"""Model and data files that are not whole are found before anything starts, and named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from s2l_ray.errors import DataError, ModelError
from s2l_ray.tasks.compat import check_context, check_models, check_window
from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.model_files import weight_shapes
from tests.support.examples import examples
from tests.support.word_models import WORDS, make_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 988097824\n"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", WORDS, rows=16)


@pytest.fixture
def sharded(model: Path) -> Path:
    (model / "model.safetensors").unlink()
    save_file({"model.embed_tokens.weight": np.zeros((16, 2), np.float32)}, model / FIRST)
    save_file({"model.norm.weight": np.zeros(2, np.float32)}, model / SECOND)
    write_index(model, {"model.embed_tokens.weight": FIRST, "model.norm.weight": SECOND})
    return model


def write_index(model: Path, weight_map: object) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def refused(model: Path) -> str:
    """What is said of it, in one line, as a learner and as an explorer."""
    with pytest.raises(ModelError, match="^models.learner: ") as caught:
        check_models(str(model), str(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_whole_directories_pass(model, tmp_path):
    check_models(str(model), str(model))
    assert weight_shapes("models.learner", model) == {"model.embed_tokens.weight": (16, 2)}


def test_shards_pass_when_they_are_whole(sharded):
    check_models(str(sharded), str(sharded))
    assert weight_shapes("models.learner", sharded) == {
        "model.embed_tokens.weight": (16, 2),
        "model.norm.weight": (2,),
    }


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("a pointer", lambda path: path.write_text(POINTER), "is a git-lfs pointer, not the file itself; run `git lfs"),
    ("empty", lambda path: path.write_bytes(b""), "is empty; copy it again"),
    ("cut off by a byte", cut, "is cut off or is not a safetensors file .*; copy it again"),
    ("cut in its header", lambda path: path.write_bytes(path.read_bytes()[:20]), "is cut off"),
    ("cut in its length", lambda path: path.write_bytes(path.read_bytes()[:5]), "of 5 bytes, is cut off"),
    ("longer", lambda path: path.write_bytes(path.read_bytes() + b"x"), "is cut off or is not a safetensors file"),
    ("a web page", lambda path: path.write_text("<!DOCTYPE html>" * 9), "is not a safetensors file"),
    ("zeros, as a copy onto a full disk", lambda path: path.write_bytes(bytes(4096)), "is not a safetensors file"),
]


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_damaged_weights_are_named(sharded, damage, message):
    damage(sharded / SECOND)
    assert_said(refused(sharded), SECOND, message)


def assert_said(text: str, file: str, message: str) -> None:
    assert re.search(rf"{re.escape(file)}.*{message}", text), text


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 10_000))
def test_no_beginning_of_a_file_of_weights_passes(model, length):
    path = model / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: length % len(whole)])
    try:
        assert "model.safetensors" in refused(model)
    finally:
        path.write_bytes(whole)


def test_a_single_file_is_looked_into_as_well(model):
    cut(model / "model.safetensors")
    assert_said(refused(model), "model.safetensors", "of .* bytes, is cut off")


def test_a_missing_shard_and_many(sharded):
    (sharded / SECOND).unlink()
    assert f"lacks {SECOND}; copy the missing files" in refused(sharded)
    write_index(sharded, {f"t{i}": f"model-{i}.safetensors" for i in range(9)})
    assert "lacks model-0.safetensors, model-1.safetensors, model-2.safetensors and 6 more;" in refused(sharded)


def test_a_link_into_a_cache_that_was_emptied_is_a_missing_file(sharded):
    (sharded / SECOND).unlink()
    (sharded / SECOND).symlink_to("../blobs/gone")
    assert f"lacks {SECOND}" in refused(sharded)


def test_an_index_that_does_not_go_with_its_shards(sharded):
    write_index(sharded, {"model.embed_tokens.weight": FIRST, "model.norm.weight": FIRST})
    assert_said(refused(sharded), FIRST, "has no tensor model.norm.weight, though model.safetensors.index.json says so")
    for wrong in ({}, [], None, {"a": 1}):
        write_index(sharded, wrong)
        assert "names no shards (weight_map); copy it again" in refused(sharded)


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("adapter_config.json", "it holds an adapter alone: merge it into its base model"),
        ("model-q8.gguf", "convert that with `s2l family import FILE.gguf"),
        ("pytorch_model-00001-of-00002.bin", r"pickled weights \(pytorch_model.bin\) are not read"),
        ("README.md", "save the model with save_pretrained, or give a model directory"),
    ],
)
def test_weights_of_another_kind_are_told_apart(model, file, remedy):
    (model / "model.safetensors").unlink()
    (model / file).write_text("{}")
    assert_said(refused(model), "", rf"has no weights \(model.safetensors\); .*{remedy}")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_small_files_that_are_pointers_or_broken_are_named(model, file):
    whole = (model / file).read_text()
    (model / file).write_text(POINTER)
    assert_said(refused(model), file, "is a git-lfs pointer")
    for broken in ("", "{", "[1, 2]", "<html>", "[" * 100_000):
        (model / file).write_text(broken)
        said = refused(model)
        assert file in said or "no usable tokenizer in" in said
    (model / file).write_text(whole)
    check_models(str(model), str(model))


def test_pointers_that_nothing_reads_do_not_matter(model):
    for unused in ("pytorch_model.bin", "model.onnx", "picture.png"):
        (model / unused).write_text(POINTER)
    check_models(str(model), str(model))


def test_an_architecture_that_transformers_does_not_know(model):
    (model / "config.json").write_text(json.dumps({"model_type": "no-such-model", "vocab_size": 16}))
    assert_said(refused(model), "config.json", r"\(.*no-such-model.*\); correct it")
    (model / "config.json").write_text(json.dumps({"vocab_size": 16}))
    assert "transformers cannot use" in refused(model)


def test_embeddings_of_another_size_than_the_configuration_says(model):
    save_file({"lm_head.weight": np.zeros((17, 2), np.float32)}, model / "model.safetensors")
    assert "lm_head.weight in" in refused(model)
    assert "has 17 rows, but config.json has vocab_size = 16" in refused(model)


def test_what_the_file_system_refuses_is_no_traceback(model):
    name = "models/" + "x" * 5000
    with pytest.raises(ModelError, match="models.explorer: .* cannot be read .File name too long.; check its path"):
        check_models(str(model), name)
    with pytest.raises(DataError, match="cannot be read .File name too long.; check its path and permissions"):
        load_problems(f"{name}.jsonl")


def test_data_files_that_are_pointers(tmp_path):
    for name in ("train.jsonl", "train.parquet"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(DataError, match=rf"{name} is a git-lfs pointer, not the file itself; run `git lfs pull`"):
            load_problems(tmp_path / name)


def test_positions_for_prompt_and_response(model):
    config = {"model_type": "qwen3", "vocab_size": 16, "max_position_embeddings": 64}
    path = model / "config.json"
    path.write_text(json.dumps(config))
    check_context("models.explorer", str(model), 64)
    with pytest.raises(ModelError, match="models.explorer: .* has 64 positions .* may take 65 tokens; lower data"):
        check_context("models.explorer", str(model), 65)
    stretched = {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    for more in ({"model_max_length": 128}, stretched, {"max_position_embeddings": None}):
        path.write_text(json.dumps(config | more))
        check_context("models.explorer", str(model), 65)


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, False),
        ({"model_type": "mistral", "sliding_window": None}, True),
        ({"model_type": "gemma3_text", "sliding_window": 64, "num_hidden_layers": 6}, False),
        # A Qwen model has windows only where it says so, and only above max_window_layers.
        ({"model_type": "qwen3", "sliding_window": 64}, True),
        ({"model_type": "qwen3", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0}, False),
        ({"model_type": "qwen3", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 32}, True),
        ({"model_type": "llama"}, True),
    ],
)
def test_a_sliding_window_for_prompt_and_response(model, config: dict[str, object], fits: bool):
    (model / "config.json").write_text(json.dumps(config))
    check_window("models.learner", str(model), 64)
    if fits:
        check_window("models.learner", str(model), 65)
    else:
        message = (
            "models.learner: .* a sliding window of 64 tokens, but prompt and response may take 65, .*; lower data.max"
        )
        with pytest.raises(ModelError, match=message):
            check_window("models.learner", str(model), 65)
