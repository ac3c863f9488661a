"""What made a recording: the settings and contents that its rollouts are a function of, and a hash over them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from s2l_ray.rollouts.records import Prompt

Value = str | int | float | bool | None
SAMPLED = "s2l-ray"
"""Origin of rollouts that this package sampled. Others carry in their origin where they come from."""
DATE = "data.date"
"""Field of what was sampled for prompts that name a day; others do not have it."""
FREE_WHEN_NAMED = ("origin", "rollout.explorer_seed", "models.dtype")
"""Fields in which a run and a recording that it names (bank.recording) may differ."""


@dataclass(frozen=True)
class Fingerprint:
    """Of a recording, or of what a run would record."""

    fields: Mapping[str, Value]
    """By the name of the configuration's key where there is one; contents of files as hashes."""

    @cached_property
    def digest(self) -> str:
        """16 hex digits: the recording's name."""
        text = json.dumps(dict(self.fields), sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def origin(self) -> Value:
        return self.fields["origin"]

    def differences(self, run: Fingerprint, but: Iterable[str] = ()) -> list[str]:
        """Where this recording and a run differ, one line a field, such as
        "rollout.explorer.temperature: recorded 1.0, this run 0.7".

        Args:
            but: fields that may differ.
        """
        names = [name for name in (*self.fields, *run.fields) if name not in but]
        return [
            f"{name}: recorded {_shown(self.fields.get(name))}, this run {_shown(run.fields.get(name))}"
            for name in dict.fromkeys(names)
            if self.fields.get(name) != run.fields.get(name)
        ]


def prompt_digest(prompt: Prompt) -> str:
    """16 hex digits over what a rollout's tokens and verdict depend on: the prompt's tokens, answer and question."""
    digest = hashlib.blake2b(prompt.token_ids.astype("<i4").tobytes(), digest_size=8)
    digest.update(json.dumps([prompt.answer, prompt.question]).encode())
    return digest.hexdigest()


def _shown(value: Value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
