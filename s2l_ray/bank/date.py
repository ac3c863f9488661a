"""The date that a chat template writes into prompts: fixed once for a run, so that midnight changes no prompt."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from s2l_ray.bank.contents import fingerprint_of
from s2l_ray.bank.fingerprint import DATE, FREE_WHEN_NAMED
from s2l_ray.bank.recording import recordings
from s2l_ray.bank.storage import bank_storage
from s2l_ray.tasks.compat import model_directory
from s2l_ray.tasks.prompts import chat_template, load_tokenizer, writes_date

if TYPE_CHECKING:
    from s2l_ray.config import Config


def dated(config: Config, begun: datetime.date | None = None, *, bank: bool) -> Config:
    """The configuration with data.date set, if its chat template writes a date and none is set.

    A resumed run keeps its date. Otherwise it is the newest date of the recordings that differ from what the run would
    record in nothing but the date; and if there is none, today's.

    Args:
        begun: data.date of the run that is resumed.
        bank: whether recordings at bank.path are considered.

    Raises:
        ModelError: the explorer or its tokenizer cannot be used.
        BankError, ConfigError: see `fingerprint_of` and `recordings`.
    """
    if config.data.date is not None or not config.data.chat:
        return config
    directory = model_directory("models.explorer", config.models.explorer)
    tokenizer = load_tokenizer(directory, config.models.trust_remote_code)
    if not writes_date(chat_template(tokenizer, config.data)):
        return config
    day = begun or (_recorded(config) if bank else None) or datetime.date.today()
    return config.model_copy(update={"data": config.data.model_copy(update={"date": day})})


def _recorded(config: Config) -> datetime.date | None:
    """The newest date of the recordings that differ from what the run would record in nothing but the date."""
    run, named = fingerprint_of(config), config.bank.recording
    # The type that the run computes in is not known yet; opening the bank compares it.
    free = (DATE, "models.dtype", *(FREE_WHEN_NAMED if named else ()))
    days = [
        recording.fingerprint.fields.get(DATE)
        for recording in recordings(bank_storage(config.bank.path))
        if recording.name.startswith(named or "") and not recording.fingerprint.differences(run, but=free)
    ]
    return max((datetime.date.fromisoformat(str(day)) for day in days if day), default=None)
