"""Prompts: problems rendered with the chat template or a plain format, and tokenised once."""

from __future__ import annotations

import datetime
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.config import DataConfig
from s2l_ray.config.data import GIVEN_TO_TEMPLATES
from s2l_ray.errors import DataError, ModelError
from s2l_ray.rollouts.records import Prompt
from s2l_ray.tasks.data import Problem
from s2l_ray.tasks.template_names import names_read

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


def chat_template(tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> str:
    """The template that prompts are rendered with: the tokenizer's only one, or of several the one that is chosen.

    Raises:
        ModelError: there is none, or none of the name, or none was chosen and none is named default.
    """
    templates = tokenizer.chat_template
    if not isinstance(templates, dict):
        templates = {"default": templates} if templates else {}
    if not templates:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; set data.chat=false and put instructions "
            "into data.prompt, or use a model that has one"
        )
    chosen = data.chat_template or "default"
    if chosen not in templates:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template named {chosen}; choose one with "
            f"data.chat_template, of {', '.join(sorted(templates))}"
        )
    return str(templates[chosen])


def template_arguments(tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> set[str]:
    """The arguments that the chat template has of its own, beside those that every template is given.

    Raises:
        ModelError: there is no chat template, or it is malformed.
    """
    from jinja2 import TemplateSyntaxError

    try:
        read = names_read(chat_template(tokenizer, data))
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} is malformed ({_reason(error)}); correct the template, or "
            "set data.chat=false"
        ) from error
    return read - GIVEN_TO_TEMPLATES.keys() - set(tokenizer.special_tokens_map)


def writes_date(template: str) -> bool:
    """Whether a chat template asks for the day on which it is rendered; transformers has no other way to it."""
    return "strftime_now" in template


def render_prompts(problems: list[Problem], tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> list[Prompt]:
    """The prompts of `problems`, in order: a function of its arguments, at whatever time it is called.

    A beginning-of-sequence token is there once if the tokenizer's own encoding has one; an end-of-sequence token is
    never appended, whatever the tokenizer does by default.

    Args:
        data: with a date, if the template writes one (see `bank.date`).

    Raises:
        DataError: a prompt is empty or longer than data.max_prompt_tokens.
        ModelError: data.chat is on and the tokenizer has no chat template, or its template fails on a prompt, or does
            not take an argument of data.chat_template_kwargs.
    """
    if not problems:
        return []
    texts = [data.prompt.replace("{question}", p.question) for p in problems]  # not str.format: LaTeX has braces
    if data.chat:
        texts = _in_chat(problems, texts, tokenizer, data)
    bos = _bos(tokenizer)
    prompts = []
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for problem, text, tokens in zip(problems, texts, encoded, strict=True):
        lacks_bos = not data.chat and bos is not None and tokens[:1] != [bos]  # a chat template writes its own
        ids = [bos, *tokens] if lacks_bos else tokens
        _check_length(problem, len(ids), data)
        token_ids = np.array(ids, dtype=np.int32)
        prompts.append(Prompt(problem.id, problem.question, text, token_ids, problem.answer, problem.columns))
    return prompts


def _in_chat(
    problems: list[Problem], texts: list[str], tokenizer: PreTrainedTokenizerBase, data: DataConfig
) -> list[str]:
    template = chat_template(tokenizer, data)
    _check_arguments(tokenizer, data)
    ours = {"chat_template": template, "tokenize": False, "add_generation_prompt": True}
    options = data.chat_template_kwargs | ours | _clock(template, data)
    system = [] if data.system is None else [{"role": "system", "content": data.system}]
    rendered, before = [], random.getstate()
    try:
        for problem, text in zip(problems, texts, strict=True):
            random.seed(problem.id)  # Jinja has a filter that chooses at random
            messages = [*system, {"role": "user", "content": text}]
            rendered.append(tokenizer.apply_chat_template(messages, **options))
    except Exception as error:  # a template is a program, and can fail in every way that Python can
        remedy = "try without data.system, correct the template" if system else "correct the template"
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} fails on prompt {problem.id} ({_reason(error)}); "
            f"{remedy}, or set data.chat=false"
        ) from error
    finally:
        random.setstate(before)
    return rendered


def _check_arguments(tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> None:
    """Refuse arguments that the chat template would silently ignore."""
    if not data.chat_template_kwargs:
        return
    known = template_arguments(tokenizer, data)
    if unknown := [f"data.chat_template_kwargs.{name}" for name in data.chat_template_kwargs if name not in known]:
        raise ModelError(
            f"{', '.join(unknown)}: the chat template of {tokenizer.name_or_path} takes no such argument; it takes "
            f"{', '.join(sorted(known)) or 'none'}"
        )


def _clock(template: str, data: DataConfig) -> dict[str, Any]:
    """The replacement for transformers' clock, if the template asks for it: midnight at the beginning of data.date."""
    if not writes_date(template):
        return {}
    if data.date is None:
        raise ValueError("the chat template writes a date: set data.date first (s2l_ray.bank.date.dated)")
    return {"strftime_now": datetime.datetime.combine(data.date, datetime.time()).strftime}


def _reason(error: Exception) -> str:
    """The message of a template's error, with its type unless the template raised it itself."""
    from jinja2 import TemplateError, TemplateSyntaxError

    kind = "" if type(error) is TemplateError else f"{type(error).__name__}: "
    if isinstance(error, TemplateSyntaxError):
        return f"{kind}{' '.join(str(error.message).split())}, line {error.lineno}"
    return kind + " ".join(str(error).split())


def _bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the tokenizer puts before every text by default, if it does."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None


def _check_length(problem: Problem, tokens: int, data: DataConfig) -> None:
    if tokens == 0:
        raise DataError(f"prompt {problem.id} has no tokens; check its question, data.prompt and the chat template")
    if tokens > data.max_prompt_tokens:
        raise DataError(
            f"prompt {problem.id} has {tokens} tokens, more than data.max_prompt_tokens = {data.max_prompt_tokens}; "
            "raise the limit or remove the row"
        )
