"""The problems of a run, and how they become prompts."""

from __future__ import annotations

import datetime

from s2l_ray.config.embedded import DataSource
from s2l_ray.config.section import Positive, Section, model_validator


class DataConfig(Section):
    """Training and held-out problems, and how they become prompts."""

    train: DataSource
    """JSONL or Parquet file of training problems, or a split of a data set on the Hugging Face Hub:
    `hf://datasets/ORG/NAME[@REVISION][/PATH][:SPLIT]`. PATH is a subset of the data set, or a directory or file of
    its repository. `embedded:train.jsonl` is the file of the embedded family."""
    eval: DataSource | None = None
    """File or split of held-out problems, such as `embedded:heldout.jsonl`. Without it nothing is evaluated."""
    train_limit: Positive | None = None
    """Use only the first N rows of `train`."""
    eval_limit: Positive | None = None
    """Use only the first N rows of `eval`."""
    chat: bool = True
    """Render prompts with the tokenizer's chat template. Off: the text of `prompt` is the whole prompt."""
    system: str | None = None
    """System message; needs `chat`."""
    chat_template: str | None = None
    """Name of the chat template, where the tokenizer has several; default: the one named `default`."""
    date: datetime.date | None = None
    """The day (YYYY-MM-DD) that a chat template gets which writes the current date. Default: the day of the bank's
    recording that the run reads or adds to, else the day on which the run begins; a resumed run keeps its day. It stays
    null with templates that write no date."""
    prompt: str = "{question}"
    """Text into which a question is put before the chat template is applied; must contain {question}."""
    max_prompt_tokens: Positive = 512
    """Most tokens of a rendered prompt; a longer one is an error before the run starts."""

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
        return self
