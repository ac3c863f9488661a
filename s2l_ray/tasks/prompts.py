"""Prompts: problems rendered with the chat template or a plain format, and tokenised once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.config import DataConfig
from s2l_ray.errors import DataError, ModelError
from s2l_ray.rollout import Prompt
from s2l_ray.tasks.data import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def load_tokenizer(model_dir: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory, or of a Hub id that is already in the local cache; never downloads.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    directory = Path(model_dir)
    if directory.is_dir() and not any(map(Path.is_file, (directory / file for file in TOKENIZER_FILES))):
        raise ModelError(f"{directory} has no tokenizer; copy tokenizer.json from the model's source")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(model_dir), trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # a broken file surfaces as any of a dozen types, from KeyError to the Rust library's
        raise ModelError(
            f"no usable tokenizer in {model_dir} ({type(error).__name__}: {error}); "
            "copy the model's tokenizer files into the directory"
        ) from error


def render_prompts(problems: list[Problem], tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> list[Prompt]:
    """The prompts of `problems`, in order.

    A beginning-of-sequence token is there once if the tokenizer's own encoding has one; an end-of-sequence token is
    never appended, whatever the tokenizer does by default.

    Raises:
        DataError: a prompt is empty or longer than data.max_prompt_tokens.
        ModelError: data.chat is on and the tokenizer has no chat template, or its template refuses the messages.
    """
    if not problems:
        return []
    texts = [_render(problem, tokenizer, data) for problem in problems]
    bos = _bos(tokenizer)
    prompts = []
    for problem, text, ids in zip(
        problems, texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True
    ):
        if not data.chat and bos is not None and ids[:1] != [bos]:  # a chat template writes its own
            ids = [bos, *ids]
        _check_length(problem, len(ids), data)
        prompts.append(Prompt(problem.id, problem.question, text, np.array(ids, dtype=np.int32), problem.answer))
    return prompts


def _render(problem: Problem, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> str:
    text = data.prompt.replace("{question}", problem.question)  # not str.format: LaTeX is full of braces
    if not data.chat:
        return text
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; set data.chat=false and put instructions "
            "into data.prompt, or use a model that has one"
        )
    system = [] if data.system is None else [{"role": "system", "content": data.system}]
    messages = [*system, {"role": "user", "content": text}]
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} refuses prompt {problem.id} ({error}); "
            "try without data.system, or set data.chat=false"
        ) from error


def _bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the tokenizer puts before every text by default, if it does."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None


def _check_length(problem: Problem, tokens: int, data: DataConfig) -> None:
    if tokens == 0:
        raise DataError(f"prompt {problem.id} has no tokens; check data.prompt and its question")
    if tokens > data.max_prompt_tokens:
        raise DataError(
            f"prompt {problem.id} has {tokens} tokens, more than data.max_prompt_tokens = {data.max_prompt_tokens}; "
            "raise the limit or remove the row"
        )
