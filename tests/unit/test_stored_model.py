"""A model that is built without weights and filled afterwards is the one that transformers loads whole, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, PreTrainedModel

from s2l_ray.errors import ModelError
from s2l_ray.training.lora import add_adapters
from s2l_ray.training.model import PackedPolicy, load_causal_lm, shard
from s2l_ray.training.stored_model import StoredTensors, fill
from tests.support.training_models import SHAPE, random_model, trainer_config, whole_model, write_model

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("Qwen3", {"head_dim": 16, "tie_word_embeddings": False}),
    ("Qwen2", {"tie_word_embeddings": True}),
    ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    ("Mistral", {"head_dim": 16}),
    ("Gemma", {"head_dim": 16}),
    ("Gemma2", {"head_dim": 16, "attn_logit_softcapping": None}),
    ("Gemma3Text", {"head_dim": 16, "sliding_window": 16}),
]


def make_family(family: str, options: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(3)
    head = "Gemma3" if family == "Gemma3Text" else family
    config = getattr(transformers, f"{family}Config")(**SHAPE, **options)
    model: PreTrainedModel = getattr(transformers, f"{head}ForCausalLM")(config)
    return model.to(dtype)


def assert_same_bits(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    for of in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(found, of)()), dict(getattr(expected, of)())
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype, name
            assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("family", "options"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_weights_and_buffers_are_those_that_transformers_loads(
    family: str, options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    make_family(family, options, dtype).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found, expected = whole_model(str(tmp_path)), AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert_same_bits(found, expected)
    assert len(list(found.buffers())) > 0
    tied = found.get_output_embeddings().weight is found.get_input_embeddings().weight
    assert tied == (expected.get_output_embeddings().weight is expected.get_input_embeddings().weight)


@pytest.mark.parametrize("said", ["bfloat16", None])
def test_stored_values_go_through_the_type_of_the_config(said: str | None, tmp_path: Path) -> None:
    """float32 in the files and bfloat16 in config.json: engines round, and so does the trainer."""
    model = random_model("qwen3")
    model.save_pretrained(tmp_path)
    config = model.config.to_dict() | {"dtype": said, "architectures": ["Qwen3ForCausalLM"]}
    transformers.Qwen3Config(**config).to_json_file(tmp_path / "config.json", use_diff=False)
    found = whole_model(str(tmp_path))
    assert_same_bits(found, AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto"))
    assert found.dtype == (torch.bfloat16 if said else torch.float32)


def test_nothing_has_memory_before_it_is_filled_and_no_random_number_is_drawn(tmp_path: Path) -> None:
    directory = write_model("qwen3", tmp_path)
    before = torch.get_rng_state()
    model = load_causal_lm(directory)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_adapters_begin_as_beside_weights_that_are_there(tmp_path: Path) -> None:
    directory = write_model("llama", tmp_path)
    described, loaded = load_causal_lm(directory), AutoModelForCausalLM.from_pretrained(directory)
    for model in (described, loaded):
        add_adapters(model, trainer_config(lora_rank=3), seed=5)
    fill(described, StoredTensors(directory), torch.device("cpu"))
    assert_same_bits(described, loaded)
    frozen = {name for name, p in described.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, p in loaded.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("rank", "sharing", "replicas"), [(0, 3, 1), (2, 3, 1), (3, 3, 2), (5, 3, 2), (22, 24, 1), (23, 24, 1)]
)
def test_a_rank_reads_its_own_rows(
    rank: int, sharing: int, replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three ranks, for whom 32, 48 and 64 rows are not equally many: the last one has fewer.

    Ranks 3 to 5 are a second replica, which reads what the first does. Of 24 ranks that have two of 32 or three of 64
    rows each, the last ones have none.
    """
    directory = write_model("llama", tmp_path)
    rows_read: dict[str, int] = {}
    real = StoredTensors.rows

    def counting(self: StoredTensors, name: str, shape: torch.Size, first: int, count: int) -> torch.Tensor:
        rows_read[name] = count
        return real(self, name, shape, first, count)

    monkeypatch.setattr(StoredTensors, "rows", counting)
    dist.init_process_group("fake", rank=rank, world_size=sharing * replicas, store=FakeStore())
    try:
        model = load_causal_lm(directory)
        policy = PackedPolicy(model, temperature=1.0, chunk=8)
        names = ("replicate", "shard")
        two = init_device_mesh("cpu", (replicas, sharing), mesh_dim_names=names)
        mesh = two if replicas > 1 else two["shard"]
        shard(policy, mesh, compute_dtype=torch.bfloat16)
        fill(model, StoredTensors(directory), torch.device("cpu"))
        stored = load_file(tmp_path / "model.safetensors")
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            own = rank % sharing
            chunks = torch.chunk(stored[name], sharing)
            expected = chunks[own] if own < len(chunks) else stored[name][:0]
            assert torch.equal(parameter.to_local(), expected), name
            assert rows_read[name] == len(expected)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    finally:
        dist.destroy_process_group()


def rewrite(directory: Path, changes: dict[str, torch.Tensor]) -> str:
    file = directory / "model.safetensors"
    save_file(load_file(file) | changes, file, metadata={"format": "pt"})
    return str(directory)


def test_a_tied_tensor_that_is_stored_twice_has_to_be_the_same(tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    whole_model(rewrite(tmp_path, {"lm_head.weight": embedding.clone()}))
    other = embedding.clone()
    other[-1, -1] += 1
    with pytest.raises(ModelError, match=r"ties lm_head.weight .* tie_word_embeddings"):
        whole_model(rewrite(tmp_path, {"lm_head.weight": other}))


def test_files_of_another_model_are_an_error(tmp_path: Path) -> None:
    write_model("qwen3", tmp_path)
    changed = rewrite(tmp_path, {"model.norm.weight": torch.ones(31)})
    with pytest.raises(ModelError, match=r"model.norm.weight is \[31\], and \[32\] by config.json"):
        whole_model(changed)


def test_a_directory_without_safetensors_is_an_error(tmp_path: Path) -> None:
    directory = write_model("qwen3", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ModelError, match=r"model.safetensors is damaged"):
        load_causal_lm(directory)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights in safetensors files"):
        load_causal_lm(directory)


def test_a_file_that_the_index_names_and_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    random_model("qwen3").save_pretrained(tmp_path, max_shard_size="20KB")
    next(tmp_path.glob("model-00002*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"model-00002.* is missing or damaged"):
        whole_model(str(tmp_path))
