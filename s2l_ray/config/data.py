"""The problems of a run, and how they become prompts."""

from __future__ import annotations

import datetime
from typing import Annotated

from s2l_ray.config.embedded import DataSource
from s2l_ray.config.section import AfterValidator, Field, Positive, Section, field_validator, model_validator

GIVEN_TO_TEMPLATES = {
    **dict.fromkeys(("messages", "conversation"), "the messages are those of data.prompt and data.system"),
    **dict.fromkeys(("tools", "documents"), "prompts have none"),
    **dict.fromkeys(("add_generation_prompt", "continue_final_message"), "a prompt ends where the response begins"),
    "chat_template": "use data.chat_template",
    "strftime_now": "use data.date",
    **dict.fromkeys(
        ("tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        "it says how a prompt is tokenised, not what it is",
    ),
    "return_assistant_tokens_mask": "a prompt has no tokens of the assistant",
    **dict.fromkeys(
        ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
        "special tokens are the tokenizer's",
    ),
}
"""Arguments of `apply_chat_template` and its templates that are not for the user to give, and why."""


def _argument(name: str) -> str:
    """The name of an argument that may be given to a chat template."""
    if not name.isidentifier():
        raise ValueError("is not the name of an argument; these have letters, digits and _")
    if name in GIVEN_TO_TEMPLATES:
        raise ValueError(f"cannot be given to the chat template: {GIVEN_TO_TEMPLATES[name]}")
    return name


ArgumentName = Annotated[str, AfterValidator(_argument)]
Argument = bool | int | float | Annotated[str, Field(strict=True)] | None
"""Its text is strict, since pydantic would make one of a number that is not finite."""


class DataConfig(Section):
    """Training and held-out problems, and how they become prompts."""

    train: DataSource
    """JSONL or Parquet file of training problems, a directory of such files, or a split of a data set on the Hugging
    Face Hub: `hf://datasets/ORG/NAME[@REVISION][/PATH][:SPLIT]`. PATH is a subset of the data set, or a directory or
    file of its repository. `embedded:train.jsonl` is the file of the embedded family."""
    eval: DataSource | None = None
    """File, directory or split of held-out problems, such as `embedded:heldout.jsonl`. In a directory each file is also
    evaluated by itself. Without it nothing is evaluated."""
    train_limit: Positive | None = None
    """Use only the first N rows of `train`; of a directory the first N of each file."""
    eval_limit: Positive | None = None
    """Use only the first N rows of `eval`; of a directory the first N of each file."""
    chat: bool = True
    """Render prompts with the tokenizer's chat template. Off: the text of `prompt` is the whole prompt."""
    system: str | None = None
    """System message; needs `chat`."""
    chat_template: str | None = None
    """Name of the chat template, where the tokenizer has several; default: the one named `default`."""
    chat_template_kwargs: dict[ArgumentName, Argument] = Field(default_factory=dict)
    """Further arguments of the chat template, such as `{enable_thinking: false}` for Qwen3: true or false, a number or
    text for each name. The template must take them. Null takes out an argument that an extended file gives."""
    date: datetime.date | None = None
    """The day (YYYY-MM-DD) that a chat template gets which writes the current date. Default: the day of the bank's
    recording that the run reads or adds to, else the day on which the run begins; a resumed run keeps its day. It stays
    null with templates that write no date."""
    prompt: str = "{question}"
    """Text into which a question is put before the chat template is applied; must contain {question}."""
    max_prompt_tokens: Positive = 512
    """Most tokens of a rendered prompt; a longer one is an error before the run starts."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _given(cls, value: dict[str, Argument]) -> dict[str, Argument]:
        """The arguments without those that are null: not given, whatever a file that is extended says."""
        return {name: argument for name, argument in value.items() if argument is not None}

    @model_validator(mode="after")
    def _has_question(self) -> DataConfig:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        return self

    @model_validator(mode="after")
    def _chat_settings_have_a_chat(self) -> DataConfig:
        for key in ("system", "chat_template", "date"):
            if getattr(self, key) is not None and not self.chat:
                raise ValueError(f"{key} needs chat: true")
        if self.chat_template_kwargs and not self.chat:
            raise ValueError("chat_template_kwargs needs chat: true")
        return self
