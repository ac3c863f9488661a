"""Checks, before anything starts, that learner and explorer are whole and can share rollouts: one tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.errors import HubError, ModelError
from s2l_ray.hub.fetching import cached_model
from s2l_ray.hub.names import model_repository
from s2l_ray.machine.places import left_out_of_upload
from s2l_ray.tasks.model_files import (
    REMEDY,
    check_rows,
    check_small_files,
    instead_of_model,
    read_json,
    readable,
    weight_shapes,
)
from s2l_ray.tasks.prompts import load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

PROBES = (
    "Natalia sold 48/2 = 24 clips in May.",
    "  Two  blanks,\n\ta tab and don't -- 1,234.50 dollars!",
    "\\boxed{\\frac{x^{2}}{\\sqrt{3}}} \\neq 10^{-5}",
    "naïve café, Größe, 数学の答え, ½ × 3 ≤ π 🙂",  # noqa: RUF001 (what is to be tokenised)
    "3 7 12 5 : 27 >",
)
"""Texts that merges, normalisers and pre-tokenisers of different families split differently."""


@dataclass(frozen=True)
class _Model:
    key: str
    path: Path
    tokenizer: PreTrainedTokenizerBase
    eos_ids: list[int]
    """Sorted ids that end a response."""
    rows: int | None
    """Rows of the embedding; token ids are below it."""


def check_models(learner: str, explorer: str, trust_remote_code: bool = False) -> None:
    """Check that both models are whole and that a rollout of one can be trained on by the other.

    Of the weights the headers are read. Vocabulary, special tokens, end-of-sequence ids, chat template and encodings
    must be equal. The embeddings may have different numbers of rows, since families pad them differently (Qwen2.5:
    151936 up to 3B, 152064 above), but the explorer no more than the learner. It samples from all of its rows, also
    from those that no token has, and of such an id the learner has no log-prob. The engine does not mask them for the
    learner's sake: what the explorer samples is a function of the explorer alone, or a bank would be of one learner.

    Args:
        learner, explorer: a directory each, or ORG/NAME[@REVISION] of the Hub, already fetched into the local cache.

    Raises:
        ModelError: a part is missing, or the two differ; the message names the key, the difference and the remedy.
    """
    ours, theirs = (
        _load(f"models.{kind}", name, trust_remote_code)
        for kind, name in (("learner", learner), ("explorer", explorer))
    )
    if ours.path != theirs.path:
        _compare_vocabularies(ours, theirs)
        _compare_specials(ours, theirs)
        _compare_encodings(ours, theirs)
        _compare_rows(ours, theirs)


def check_context(key: str, name: str, tokens: int) -> None:
    """Check that a model has positions for prompt and response.

    Args:
        tokens: of both together.

    Raises:
        ModelError: it has fewer, or there is no such model.
    """
    limit = context_of(key, name)
    if limit is not None and limit < tokens:
        raise ModelError(
            f"{key}: {model_directory(key, name)} has {limit} positions (max_position_embeddings), but prompt and "
            f"response may take {tokens} tokens; lower data.max_prompt_tokens or rollout.max_tokens"
        )


def check_window(key: str, name: str, tokens: int, trust_remote_code: bool = False) -> None:
    """Check that prompt and response fit into a sliding window of the model's layers: the trainer has none.

    Args:
        tokens: of both together.

    Raises:
        ModelError: they do not, or there is no such model.
    """
    config = _transformers_config(key, model_directory(key, name), trust_remote_code)
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ("sliding_attention",))
    if slides and window is not None and window < tokens:
        raise ModelError(
            f"{key}: {model_directory(key, name)} has layers with a sliding window of {window} tokens, but prompt and "
            f"response may take {tokens}, and the trainer supports full attention only; lower data.max_prompt_tokens "
            "or rollout.max_tokens"
        )


def context_of(key: str, name: str) -> int | None:
    """The most tokens that a model has positions for; None if its config.json does not say, or stretches them.

    Raises:
        ModelError: there is no such model.
    """
    config = _text_config(read_json(key, model_directory(key, name) / "config.json"))
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    limit = max(_number(config, "max_position_embeddings"), _number(config, "model_max_length"))
    return limit if limit > 0 and "factor" not in str(rope) else None  # the engine knows how far a factor stretches


def _load(key: str, name: str, trust_remote_code: bool) -> _Model:
    path = model_directory(key, name)
    config = read_json(key, path / "config.json")
    check_small_files(key, path)
    _transformers_config(key, path, trust_remote_code)
    rows = _number(_text_config(config), "vocab_size") or None
    check_rows(key, path, weight_shapes(key, path), rows)
    tokenizer = _tokenizer(key, path, trust_remote_code)
    _check_ids(key, path, rows, tokenizer)
    return _Model(key, path, tokenizer, _eos_ids(key, path, config, tokenizer), rows)


def check_beside_weights(key: str, directory: Path, trust_remote_code: bool) -> None:
    """Check what a model has beside its weights, and hands on to models that are made of it: config and tokenizer.

    Raises:
        ModelError: one of them is missing or damaged; the message names `key`.
    """
    read_json(key, directory / "config.json")
    check_small_files(key, directory)
    _tokenizer(key, directory, trust_remote_code)


def _tokenizer(key: str, directory: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        return load_tokenizer(directory, trust_remote_code)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model within a multimodal one; of any other model the whole configuration."""
    text = config.get("text_config")
    return config | text if isinstance(text, dict) else config


def _number(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) else 0


def _transformers_config(key: str, path: Path, trust_remote_code: bool) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # from an unknown architecture to an impossible value: as many types as models
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{key}: transformers cannot use {path / 'config.json'} ({reason}); correct it, or choose a model that "
            "this version of transformers knows"
        ) from error


def model_directory(key: str, name: str) -> Path:
    """The directory of a model: `name` itself, or that of ORG/NAME[@REVISION] in the local cache. Nothing is fetched.

    Raises:
        ModelError: there is neither; the message names `key`.
    """
    with readable(key, name):
        path = Path(name).expanduser()
        if path.is_dir():
            return path.resolve()
    if what := instead_of_model(name):
        raise ModelError(f"{key}: {what}")
    try:
        repository = model_repository(name)
    except HubError as error:
        raise ModelError(f"{key}: {error}") from None
    if repository is None:
        raise ModelError(f"{key}: the directory {name} does not exist{left_out_of_upload(name)}; {REMEDY}")
    if (cached := cached_model(repository)) is None:
        raise ModelError(f"{key}: {name} is neither a directory nor a model of the Hub in the local cache; {REMEDY}")
    return cached


def _check_ids(key: str, path: Path, rows: int | None, tokenizer: PreTrainedTokenizerBase) -> None:
    largest = max(tokenizer.get_vocab().values())
    if rows is not None and largest >= rows:
        raise ModelError(
            f"{key}: the tokenizer of {path} has token id {largest}, but config.json has vocab_size = {rows}; "
            "use the tokenizer that the model was trained with"
        )


def _eos_ids(key: str, path: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    generation = path / "generation_config.json"
    eos = read_json(key, generation).get("eos_token_id") if generation.is_file() else None
    for fallback in (config.get("eos_token_id"), tokenizer.eos_token_id):
        eos = fallback if eos is None else eos
    if eos is None:
        raise ModelError(
            f"{key}: {path} names no end-of-sequence token; set eos_token_id in generation_config.json, "
            "or no response would ever end"
        )
    return sorted(eos) if isinstance(eos, list) else [eos]


def _compare_vocabularies(learner: _Model, explorer: _Model) -> None:
    ours, theirs = learner.tokenizer.get_vocab(), explorer.tokenizer.get_vocab()
    if ours == theirs:
        return
    differing = [token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)]
    first = min(differing, key=lambda t: (min(vocab[t] for vocab in (ours, theirs) if t in vocab), t))
    raise _different(
        learner,
        explorer,
        f"{len(differing)} tokens differ, the first is {first!r}: id {ours.get(first, 'none')} for the learner, "
        f"{theirs.get(first, 'none')} for the explorer",
    )


def _compare_specials(learner: _Model, explorer: _Model) -> None:
    ours, theirs = learner.tokenizer, explorer.tokenizer
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in ("bos_token", "eos_token", "pad_token")}
    pairs["eos_token_id (generation_config.json)"] = (learner.eos_ids, explorer.eos_ids)
    pairs["chat template"] = (ours.chat_template, theirs.chat_template)
    for name, (our_value, their_value) in pairs.items():
        if our_value != their_value:
            shown = (
                "" if name == "chat template" else f": {our_value!r} for the learner, {their_value!r} for the explorer"
            )
            raise _different(learner, explorer, f"{name} differs{shown}")


def _compare_encodings(learner: _Model, explorer: _Model) -> None:
    for probe in PROBES:
        ours, theirs = (model.tokenizer(probe)["input_ids"] for model in (learner, explorer))
        if ours != theirs:
            raise _different(
                learner, explorer, f"{probe!r} is encoded as {ours} by the learner and as {theirs} by the explorer"
            )


def _compare_rows(learner: _Model, explorer: _Model) -> None:
    if learner.rows is None or explorer.rows is None or explorer.rows <= learner.rows:
        return
    raise ModelError(
        f"models.explorer ({explorer.path}) has {explorer.rows} embedding rows, models.learner ({learner.path}) has "
        f"{learner.rows}: the explorer could sample token ids that the learner does not have. Their tokenizers are "
        f"equal, so the other rows are padding: save the explorer without them, after "
        f"model.resize_token_embeddings({learner.rows})"
    )


def _different(learner: _Model, explorer: _Model, what: str) -> ModelError:
    return ModelError(
        f"models.learner ({learner.path}) and models.explorer ({explorer.path}) cannot share rollouts: {what}. "
        "Choose two models of one family with the same tokenizer files"
    )
