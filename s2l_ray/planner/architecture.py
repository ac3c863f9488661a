"""What a dense decoder consists of, from its Hugging Face config: tensors, parameters, KV cache, FLOPs.

Needs no weights, no torch and no network, so that a plan takes no longer for a model that is not there yet.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from s2l_ray.compute import ForwardCost
from s2l_ray.errors import HubError, ModelError
from s2l_ray.hub.fetching import cached_model, fetch_file
from s2l_ray.hub.names import model_repository
from s2l_ray.machine.reading import MOST_JSON_BYTES, read_bounded
from s2l_ray.planner.known_models import KNOWN_MODELS
from s2l_ray.tasks.model_files import instead_of_model


@dataclass(frozen=True)
class _LayerFacts:
    """The facts of a model_type that its config.json does not state, as transformers builds it."""

    norms: int = 2
    """RMS norms over the hidden state, per layer."""
    qk_norm: bool = False
    """RMS norms over each head of queries and keys."""
    qkv_bias: bool | None = None
    """None: the config's attention_bias, for queries, keys, values and output alike. Set: output has no bias."""
    tied: bool = False
    """Where the config does not say."""
    head_dim: int | None = None
    """Where the config does not say; None: hidden / heads."""
    kv_heads_optional: bool = False
    """A config without num_key_value_heads has as many as query heads."""


FAMILIES = {
    "qwen3": _LayerFacts(qk_norm=True, head_dim=128),
    "qwen2": _LayerFacts(qkv_bias=True),
    "llama": _LayerFacts(kv_heads_optional=True),
    "mistral": _LayerFacts(qkv_bias=False),
    "gemma": _LayerFacts(tied=True, head_dim=256),
    "gemma2": _LayerFacts(norms=4, tied=True, head_dim=256),
    "gemma3_text": _LayerFacts(norms=4, qk_norm=True, tied=True, head_dim=256),
}
"""Known architectures by the model_type of their config."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a dense decoder: embedding, equal layers of attention and gated MLP, final norm, output head."""

    name: str
    family: str
    """model_type of the config."""
    layers: int
    hidden: int
    intermediate: int
    """Width of the MLP."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    """The output head is the embedding."""
    norms: int = 2
    qk_norm: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    """Whether the attention's output projection has a bias."""
    mlp_bias: bool = False

    @classmethod
    def load(cls, name_or_path: str) -> ModelShape:
        """The shape of a directory with config.json, a known hub id, or a model whose config is in the local HF cache.

        Raises:
            ModelError: nothing of the three, or an architecture that is not known here.
        """
        return _load(name_or_path)

    @classmethod
    def from_config(cls, config: dict[str, Any], name: str) -> ModelShape:
        """The shape that the content of a config.json describes.

        Raises:
            ModelError: the architecture is not known here, or a size is missing or impossible.
        """
        family = FAMILIES.get(config.get("model_type", ""))
        if family is None:
            raise ModelError(
                f"{name}: cannot plan for model_type {config.get('model_type')!r}; known are the dense decoders "
                f"{', '.join(sorted(FAMILIES))}"
            )
        heads = _size(config, "num_attention_heads", name)
        hidden = _size(config, "hidden_size", name)
        shape = cls(
            name=name,
            family=config["model_type"],
            layers=_size(config, "num_hidden_layers", name),
            hidden=hidden,
            intermediate=_size(config, "intermediate_size", name),
            heads=heads,
            kv_heads=_kv_heads(config, family, heads, name),
            head_dim=config.get("head_dim") or family.head_dim or hidden // heads,
            vocab=_size(config, "vocab_size", name),
            tied=config.get("tie_word_embeddings", family.tied),
            norms=family.norms,
            qk_norm=family.qk_norm,
            qkv_bias=config.get("attention_bias", False) if family.qkv_bias is None else family.qkv_bias,
            output_bias=config.get("attention_bias", False) if family.qkv_bias is None else False,
            mlp_bias=config.get("mlp_bias", False) if config["model_type"] == "llama" else False,
        )
        if heads % shape.kv_heads:
            raise ModelError(f"{name}: {heads} attention heads are not a multiple of {shape.kv_heads} key-value heads")
        return shape

    @property
    def query_width(self) -> int:
        """Elements of the queries of one token in one layer."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of the keys of one token in one layer; the values are as wide."""
        return self.kv_heads * self.head_dim

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of a layer's weight matrices, by transformers' names."""
        return {
            "q_proj": (self.query_width, self.hidden),
            "k_proj": (self.kv_width, self.hidden),
            "v_proj": (self.kv_width, self.hidden),
            "o_proj": (self.hidden, self.query_width),
            "gate_proj": (self.intermediate, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }

    @cached_property
    def layer_tensors(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of all parameters of one layer."""
        biased = ["q_proj", "k_proj", "v_proj"] if self.qkv_bias else []
        biased += ["o_proj"] if self.output_bias else []
        biased += ["gate_proj", "up_proj", "down_proj"] if self.mlp_bias else []
        biases = [(self.linears[name][0],) for name in biased]
        head_norms = [(self.head_dim,)] * 2 if self.qk_norm else []
        return (*self.linears.values(), *biases, *head_norms, *[(self.hidden,)] * self.norms)

    @cached_property
    def root_tensors(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the parameters outside the layers: embedding, final norm, and the output head if it is its own."""
        matrix = (self.vocab, self.hidden)
        return (matrix, (self.hidden,)) if self.tied else (matrix, (self.hidden,), matrix)

    @property
    def largest_tensor(self) -> int:
        """Elements of the largest tensor."""
        return max(math.prod(tensor) for tensor in (*self.layer_tensors, *self.root_tensors))

    @cached_property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        return sum(math.prod(tensor) for tensor in self.layer_tensors)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding."""
        return self.vocab * self.hidden

    @property
    def head_parameters(self) -> int:
        """Parameters of the output head; 0 if it is tied to the embedding."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def root_parameters(self) -> int:
        """Parameters outside the layers."""
        return self.embedding_parameters + self.head_parameters + self.hidden

    @cached_property
    def parameters(self) -> int:
        """All parameters, as transformers counts them: tied weights once."""
        return self.layers * self.layer_parameters + self.root_parameters

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Keys and values of one token in all layers, on an engine of one device.

        Layers with a sliding window count in full: rollouts are no longer than the window (the trainer refuses them).
        """
        return 2 * self.layers * self.kv_width * dtype_bytes

    def forward_flops(self, tokens: float, context: float) -> float:
        """Floating-point operations of a forward over `tokens` tokens, each attending to `context` others on average.

        Of `forward_cost`, with the logits of every token. A backward is twice as much.
        """
        cost = self.forward_cost
        return tokens * (cost.layers + cost.head + cost.attention * context)

    @cached_property
    def forward_cost(self) -> ForwardCost:
        """FLOPs of a forward by what they grow with. The embedding is a look-up and costs none, its output head does.

        Attention is 2 * heads * head_dim each for scores and weighted values of every token attended to.
        """
        return ForwardCost(
            layers=2 * self.layers * sum(out * width for out, width in self.linears.values()),
            attention=4 * self.layers * self.query_width,
            head=2 * self.vocab * self.hidden,
        )


@lru_cache
def _load(name_or_path: str) -> ModelShape:
    file = Path(name_or_path) / "config.json"
    if file.is_file():
        return ModelShape.from_config(_read(file), name_or_path)
    if what := instead_of_model(name_or_path):
        raise ModelError(what)
    repository = model_repository(name_or_path)
    if repository is not None and (cached := cached_model(repository)) is not None:
        return ModelShape.from_config(_read(cached / "config.json"), name_or_path)
    if repository is not None and repository.id in KNOWN_MODELS:
        return ModelShape.from_config(KNOWN_MODELS[repository.id], name_or_path)
    if repository is None:
        raise ModelError(
            f"{name_or_path} is no model directory: it has no config.json, which is all that a plan reads of a model. "
            "Correct the path, or give ORG/NAME of the Hub"
        )
    try:
        return ModelShape.from_config(_read(fetch_file(repository, "config.json")), name_or_path)
    except HubError as error:
        close = get_close_matches(repository.id, KNOWN_MODELS, n=3, cutoff=0.5) or ["Qwen/Qwen3-8B-Base"]
        raise ModelError(
            f"{name_or_path} is no model directory here (no config.json), and on the Hub: {error}. "
            f"Known without the Hub: {', '.join(close)}"
        ) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_bounded(file, MOST_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds no JSON object")
    return config


def _size(config: dict[str, Any], key: str, name: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"{name}: config.json needs {key}, a positive number; it has {value!r}")
    return value


def _kv_heads(config: dict[str, Any], family: _LayerFacts, heads: int, name: str) -> int:
    key = "num_key_value_heads"
    if config.get(key) is None and (family.kv_heads_optional or key in config):
        return heads
    return _size(config, key, name)
