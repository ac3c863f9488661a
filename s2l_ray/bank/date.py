"""The day that prompts name, where the chat template writes today's: fixed once, so that midnight changes no prompt."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from s2l_ray.bank.contents import fingerprint_of
from s2l_ray.bank.fingerprint import DATE, FREE_WHEN_NAMED
from s2l_ray.bank.recording import recordings
from s2l_ray.bank.storage import Storage
from s2l_ray.tasks.compat import model_directory
from s2l_ray.tasks.prompts import chat_template, load_tokenizer, writes_date

if TYPE_CHECKING:
    from s2l_ray.config import Config


def dated(config: Config, begun: datetime.date | None = None, *, bank: bool) -> Config:
    """The configuration with data.date, if its chat template writes a date and none is set.

    It is the day on which the run began, if it goes on; else that of the newest recording that the run could use but
    for the day; else today.

    Args:
        begun: data.date of the run that goes on.
        bank: whether recordings at bank.path are used.

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
    """The latest day of a recording that differs from what the run would record in the day alone."""
    run, named = fingerprint_of(config), config.bank.recording
    # In which type the run computes is not settled yet; where it matters, the run is told when the bank is opened.
    free = (DATE, "models.dtype", *(FREE_WHEN_NAMED if named else ()))
    days = [
        recording.fingerprint.fields.get(DATE)
        for recording in recordings(Storage(config.bank.path))
        if recording.name.startswith(named or "") and not recording.fingerprint.differences(run, but=free)
    ]
    return max((datetime.date.fromisoformat(str(day)) for day in days if day), default=None)
