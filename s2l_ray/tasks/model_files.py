"""Whether a model directory is whole, by the names, sizes and headers of its files. No tensor is read.

What is missing here would be found minutes later, when engines and trainer load the model, and by a library that does
not say which file it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s2l_ray.errors import ModelError
from s2l_ray.machine.places import existing_output, expanded
from s2l_ray.machine.reading import MOST_JSON_BYTES, read_bounded
from s2l_ray.tasks import git_lfs

REMEDY = (
    "give a model directory in Hugging Face layout, use the embedded family (embedded:large, embedded:small), "
    "or import SmolLM2 with `s2l family import`"
)
AGAIN = "copy it again from the model's source"
CONFIG = "config.json"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
BESIDE_WEIGHTS = (".json", ".jinja", ".txt", ".model", ".py")
"""Endings of the files that are read with the weights: configuration, tokenizer, templates, code."""
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")
"""Modules whose weight has a row for every token id."""
_STEP = re.compile(r"step-[0-9]+")
"""What follows RUN: where a checkpoint is named."""
Shapes = dict[str, tuple[int, ...]]
"""Shapes by the name of the tensor."""


@contextmanager
def readable(key: str, name: str | Path) -> Iterator[None]:
    """Report an OSError of the block as an error of the model that the key names.

    Raises:
        ModelError: in place of every OSError.
    """
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{key}: {error.filename or name} cannot be read ({error.strerror or error}); check its path and "
            "permissions"
        ) from error


def read_json(key: str, path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: there is none, or the file is something else; the message names `key`.
    """
    if not path.is_file():
        if path.name == CONFIG and (what := instead_of_model(path.parent)):
            raise ModelError(f"{key}: {what}")
        raise ModelError(f"{key}: {path.parent} has no {path.name}; {REMEDY}")
    _refuse_pointer(key, path)
    with readable(key, path):
        text = read_bounded(path, MOST_JSON_BYTES)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{key}: {path} is not readable JSON ({error}); {AGAIN}") from None
    if not isinstance(values, dict):
        raise ModelError(f"{key}: {path} is not a JSON object; {AGAIN}")
    return values


def instead_of_model(name: str | Path) -> str | None:
    """What a path names that is easily taken for a model, and what to do, in a sentence; None if it is no such thing.

    These are adapters of peft, and checkpoints and run directories of ours.

    Raises:
        ConfigError: the operating system cannot follow the path.
    """
    run, _, part = str(name).rpartition(":")
    path = expanded(name)
    if (path / CONFIG).is_file():
        return None
    if (path / "adapter_config.json").is_file():
        return (
            f"{name} holds an adapter alone (adapter_config.json), not a model; merge it into its base model (peft's "
            "merge_and_unload), or, of a checkpoint of a run, give `s2l export` again, without --adapter"
        )
    of_run = run and _STEP.fullmatch(part) and (existing_output(run) / "config.yaml").is_file()
    if of_run or ((path / "state.json").is_file() and (path / "trainer").is_dir()):
        return f"{name} is a checkpoint, not a model; write its model with `s2l export {name} --to DIR`, and name DIR"
    return _instead_of_run(name, path) if (path / "config.yaml").is_file() else None


def _instead_of_run(name: str | Path, path: Path) -> str:
    if (path / "model" / CONFIG).is_file():
        return f"{name} is a run directory, not a model; name its trained model, {path / 'model'}"
    return (
        f"{name} is the directory of a run without a trained model (model/), which it writes at its end; write that of "
        f"its newest checkpoint with `s2l export {name} --to DIR`, and name DIR"
    )


def check_small_files(key: str, directory: Path) -> None:
    """Check that configuration and tokenizer are neither pointers of git-lfs nor links to nothing.

    Raises:
        ModelError: one is, or cannot be read.
    """
    with readable(key, directory):
        for path in sorted(directory.iterdir()):
            if not path.name.endswith(BESIDE_WEIGHTS):
                continue
            if path.is_symlink() and not path.exists():  # as a cache of the Hub has them from which files were removed
                raise ModelError(f"{key}: {path} is a link to a file that is not there; {AGAIN}")
            if path.is_file():
                _refuse_pointer(key, path)


def weight_shapes(key: str, directory: Path) -> Shapes:
    """Shapes of all tensors, from the headers of the safetensors files.

    Raises:
        ModelError: a file is missing, empty, cut off or something else, or lacks a tensor that the index says it has.
    """
    if (directory / INDEX).is_file():
        return _sharded(key, directory)
    if not (directory / SINGLE).is_file():
        raise ModelError(f"{key}: {directory} has no weights ({SINGLE}); {_instead(directory)}")
    return _shapes(key, directory / SINGLE)


def check_rows(key: str, directory: Path, shapes: Shapes, rows: int | None) -> None:
    """Check that embedding and output layer have the rows that config.json says.

    Args:
        rows: vocab_size of config.json, if it has one.

    Raises:
        ModelError: they have not.
    """
    for name, shape in shapes.items():
        module = name.removesuffix(".weight").rpartition(".")[2]
        if rows is not None and module in EMBEDDINGS and name.endswith(".weight") and shape[0] != rows:
            raise ModelError(
                f"{key}: {name} in {directory} has {shape[0]} rows, but config.json has vocab_size = {rows}; config "
                "and weights are of two models, copy both again from one source"
            )


def _sharded(key: str, directory: Path) -> Shapes:
    weight_map = read_json(key, directory / INDEX).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map or not all(type(v) is str for v in weight_map.values()):
        raise ModelError(f"{key}: {directory / INDEX} names no shards (weight_map); {AGAIN}")
    files = sorted(set(weight_map.values()))
    if missing := [file for file in files if not (directory / file).is_file()]:
        raise ModelError(f"{key}: {directory} lacks {_listed(missing)}; copy the missing files, or {REMEDY}")
    shapes = {file: _shapes(key, directory / file) for file in files}
    for name, file in weight_map.items():
        if name not in shapes[file]:
            raise ModelError(
                f"{key}: {directory / file} has no tensor {name}, though {INDEX} says so; copy the index and all "
                "shards again from one source"
            )
    return {name: shapes[file][name] for name, file in weight_map.items()}


def _shapes(key: str, path: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    _refuse_pointer(key, path)
    with readable(key, path):
        size = path.stat().st_size
        if size == 0:
            raise ModelError(f"{key}: {path} is empty; {AGAIN}")
        try:
            # Maps the file and parses its header, which must account for every byte of it.
            with safe_open(path, framework="np") as tensors:
                return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(
                f"{key}: {path}, of {size} bytes, is cut off or is not a safetensors file ({error}); {AGAIN}"
            ) from None


def _instead(directory: Path) -> str:
    """The remedy for a directory whose weights are not in safetensors files."""
    if (directory / "adapter_config.json").is_file():
        return "it holds an adapter alone: merge it into its base model (peft's merge_and_unload) and save the whole"
    if any(directory.glob("*.gguf")):
        return "it holds a GGUF file: convert that with `s2l family import FILE.gguf --to DIRECTORY`"
    if any(directory.glob("pytorch_model*.bin")):
        return "pickled weights (pytorch_model.bin) are not read: load and save the model with transformers"
    return f"save the model with save_pretrained, or {REMEDY}"


def _refuse_pointer(key: str, path: Path) -> None:
    with readable(key, path):
        pointer = git_lfs.is_pointer(path)
    if pointer:
        raise ModelError(f"{key}: {path} is a git-lfs pointer, not the file itself; {git_lfs.remedy(path)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
