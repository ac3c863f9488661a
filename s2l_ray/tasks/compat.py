"""Checks, before anything starts, that learner and explorer exist and can share rollouts: one tokenizer for both."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.errors import ModelError
from s2l_ray.tasks.prompts import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REMEDY = (
    "give a model directory in Hugging Face layout, build the embedded family with `s2l family build`, "
    "or import SmolLM2 with `s2l family import`"
)
PROBES = (
    "Natalia sold 48/2 = 24 clips in May.",
    "  Two  blanks,\n\ta tab and don't -- 1,234.50 dollars!",
    "\\boxed{\\frac{x^{2}}{\\sqrt{3}}} \\neq 10^{-5}",
    "naïve café, Größe, 数学の答え, ½ × 3 ≤ π 🙂",
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


def check_models(learner: str, explorer: str, trust_remote_code: bool = False) -> None:
    """Check that both models are complete and that a rollout of one can be trained on by the other.

    Weights are looked for, not read. The embedding matrices may have different numbers of rows (padding); vocabulary,
    special tokens, end-of-sequence ids, chat template and encodings must be equal.

    Args:
        learner, explorer: a directory each, or a Hub id (`org/name`) that is already in the local cache.

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


def _load(key: str, name: str, trust_remote_code: bool) -> _Model:
    path = model_directory(key, name)
    config = _read_json(key, path / "config.json")
    _check_weights(key, path)
    try:
        tokenizer = load_tokenizer(path, trust_remote_code)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error
    _check_rows(key, path, config, tokenizer)
    return _Model(key, path, tokenizer, _eos_ids(key, path, config, tokenizer))


def model_directory(key: str, name: str) -> Path:
    """Where a model is: the directory `name`, or that of the Hub id in the local cache. Nothing is downloaded.

    Raises:
        ModelError: there is neither; the message names `key`.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ModelError(f"{key}: the directory {name} does not exist; {REMEDY}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True)).resolve()
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        raise ModelError(
            f"{key}: {name} is neither a directory nor a Hub model in the local cache (nothing is downloaded); {REMEDY}"
        ) from None


def _read_json(key: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{key}: {path.parent} has no {path.name}; {REMEDY}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(
            f"{key}: {path} is not readable JSON ({error}); copy it again from the model's source"
        ) from None
    if not isinstance(values, dict):
        raise ModelError(f"{key}: {path} is not a JSON object; copy it again from the model's source")
    return values


def _check_weights(key: str, path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(key, index).get("weight_map", {})
        missing = sorted({shard for shard in weight_map.values() if not (path / shard).is_file()})
        if missing or not weight_map:
            raise ModelError(
                f"{key}: {path} lacks {', '.join(missing) or 'all shards'}; copy the missing files, or {REMEDY}"
            )
    elif not (path / "model.safetensors").is_file():
        raise ModelError(
            f"{key}: {path} has no weights (model.safetensors); save the model with save_pretrained, or {REMEDY}"
        )


def _check_rows(key: str, path: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    largest = max(tokenizer.get_vocab().values())
    if rows is not None and largest >= rows:
        raise ModelError(
            f"{key}: the tokenizer of {path} has token id {largest}, but config.json has vocab_size = {rows}; "
            "use the tokenizer that the model was trained with"
        )


def _eos_ids(key: str, path: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    generation = path / "generation_config.json"
    eos = _read_json(key, generation).get("eos_token_id") if generation.is_file() else None
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


def _different(learner: _Model, explorer: _Model, what: str) -> ModelError:
    return ModelError(
        f"models.learner ({learner.path}) and models.explorer ({explorer.path}) cannot share rollouts: {what}. "
        "Choose two models of one family with the same tokenizer files"
    )
