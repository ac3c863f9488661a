"""config.json facts of models that plans are often asked for, by hub id: a plan needs no download.

From the models' pages on https://huggingface.co; only what ModelShape reads.
"""

from __future__ import annotations

from typing import Any


def _config(
    model_type: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    vocab: int,
    *,
    tied: bool,
    head_dim: int | None = None,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "head_dim": head_dim or hidden // heads,
    }


def _qwen3(layers: int, hidden: int, heads: int, intermediate: int, *, tied: bool) -> dict[str, Any]:
    return _config("qwen3", layers, hidden, heads, 8, intermediate, 151936, tied=tied, head_dim=128)


def _gemma(generation: str, layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int) -> dict[str, Any]:
    vocab = 262144 if generation == "gemma3_text" else 256000
    return _config(generation, layers, hidden, heads, kv_heads, intermediate, vocab, tied=True, head_dim=256)


_BASE, _INSTRUCT, _IT = ("", "-Base"), ("", "-Instruct"), ("", "-it")
_FACTS: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    # Stem of the hub id, the suffixes under which the shape is published, the shape.
    ("Qwen/Qwen3-0.6B", _BASE, _qwen3(28, 1024, 16, 3072, tied=True)),
    ("Qwen/Qwen3-1.7B", _BASE, _qwen3(28, 2048, 16, 6144, tied=True)),
    ("Qwen/Qwen3-4B", _BASE, _qwen3(36, 2560, 32, 9728, tied=True)),
    ("Qwen/Qwen3-8B", _BASE, _qwen3(36, 4096, 32, 12288, tied=False)),
    ("Qwen/Qwen3-14B", _BASE, _qwen3(40, 5120, 40, 17408, tied=False)),
    ("Qwen/Qwen3-32B", ("",), _qwen3(64, 5120, 64, 25600, tied=False)),
    ("Qwen/Qwen2.5-0.5B", _INSTRUCT, _config("qwen2", 24, 896, 14, 2, 4864, 151936, tied=True)),
    ("Qwen/Qwen2.5-1.5B", _INSTRUCT, _config("qwen2", 28, 1536, 12, 2, 8960, 151936, tied=True)),
    ("Qwen/Qwen2.5-3B", _INSTRUCT, _config("qwen2", 36, 2048, 16, 2, 11008, 151936, tied=True)),
    ("Qwen/Qwen2.5-7B", _INSTRUCT, _config("qwen2", 28, 3584, 28, 4, 18944, 152064, tied=False)),
    ("Qwen/Qwen2.5-14B", _INSTRUCT, _config("qwen2", 48, 5120, 40, 8, 13824, 152064, tied=False)),
    ("Qwen/Qwen2.5-32B", _INSTRUCT, _config("qwen2", 64, 5120, 40, 8, 27648, 152064, tied=False)),
    ("meta-llama/Llama-3.2-1B", _INSTRUCT, _config("llama", 16, 2048, 32, 8, 8192, 128256, tied=True)),
    ("meta-llama/Llama-3.2-3B", _INSTRUCT, _config("llama", 28, 3072, 24, 8, 8192, 128256, tied=True)),
    ("meta-llama/Llama-3.1-8B", _INSTRUCT, _config("llama", 32, 4096, 32, 8, 14336, 128256, tied=False)),
    ("meta-llama/Llama-3.1-70B", _INSTRUCT, _config("llama", 80, 8192, 64, 8, 28672, 128256, tied=False)),
    ("HuggingFaceTB/SmolLM2-135M", _INSTRUCT, _config("llama", 30, 576, 9, 3, 1536, 49152, tied=True)),
    ("HuggingFaceTB/SmolLM2-360M", _INSTRUCT, _config("llama", 32, 960, 15, 5, 2560, 49152, tied=True)),
    ("HuggingFaceTB/SmolLM2-1.7B", _INSTRUCT, _config("llama", 24, 2048, 32, 32, 8192, 49152, tied=True)),
    ("google/gemma-2b", _IT, _gemma("gemma", 18, 2048, 8, 1, 16384)),
    ("google/gemma-7b", _IT, _gemma("gemma", 28, 3072, 16, 16, 24576)),
    ("google/gemma-2-2b", _IT, _gemma("gemma2", 26, 2304, 8, 4, 9216)),
    ("google/gemma-2-9b", _IT, _gemma("gemma2", 42, 3584, 16, 8, 14336)),
    ("google/gemma-3-270m", _IT, _gemma("gemma3_text", 18, 640, 4, 1, 2048)),
    ("google/gemma-3-1b", ("-pt", "-it"), _gemma("gemma3_text", 26, 1152, 4, 1, 6912)),
]

KNOWN_MODELS = {stem + suffix: config for stem, suffixes, config in _FACTS for suffix in suffixes}
"""By hub id."""
