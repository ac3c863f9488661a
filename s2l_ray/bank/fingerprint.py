"""The fingerprint of a recording: the settings and file contents that determine its rollouts, and a hash over them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from s2l_ray.rollouts.records import NO_COLUMNS, Prompt

Value = str | int | float | bool | None
SAMPLED = "s2l-ray"
"""The origin of rollouts that this package sampled; that of others tells where they come from."""
DATE = "data.date"
"""A field that only exists if the chat template writes a date into the prompts."""
ARGUMENTS = "data.chat_template_kwargs"
"""How fields begin that only exist for arguments that are given to the chat template."""
BATCH_INVARIANT = "engines.explorer.batch_invariant"
"""A field that only exists if it is on."""
FREE_WHEN_NAMED = ("origin", "rollout.explorer_seed", "models.dtype", BATCH_INVARIANT)
"""Fields in which a recording may differ from a run that names it (bank.recording)."""


@dataclass(frozen=True)
class Fingerprint:
    """What determines the rollouts of a recording, or those that a run would record."""

    fields: Mapping[str, Value]
    """Settings by the name of their key, contents of files as hashes."""

    @cached_property
    def digest(self) -> str:
        """16 hex digits: the recording's name."""
        text = json.dumps(dict(self.fields), sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def origin(self) -> Value:
        """Where the rollouts come from."""
        return self.fields["origin"]

    def differences(self, run: Fingerprint, but: Iterable[str] = ()) -> list[str]:
        """The fields in which this recording and a run differ, one line each.

        A line reads "rollout.explorer.temperature: recorded 1.0, this run 0.7".

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
    """16 hex digits over what determines a rollout: the prompt's tokens, and what its verifier is called with."""
    digest = hashlib.blake2b(prompt.token_ids.astype("<i4").tobytes(), digest_size=8)
    columns = () if prompt.columns == NO_COLUMNS else (prompt.columns,)
    digest.update(json.dumps([prompt.answer, prompt.question, *columns]).encode())
    return digest.hexdigest()


def _shown(value: Value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
