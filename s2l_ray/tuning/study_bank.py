"""The bank of a study: whether it is known before what the trials need, and recording it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from s2l_ray.config import Config
from s2l_ray.display import TaskDisplay
from s2l_ray.kinds import BankMode
from s2l_ray.tuning.bound import upper_bound
from s2l_ray.tuning.preparing import PreparedStudy
from s2l_ray.tuning.samples import with_values
from s2l_ray.tuning.sharing import share
from s2l_ray.tuning.slices import sliced


def planned_mode(prepared: PreparedStudy) -> BankMode | None:
    """The bank.mode that trials are planned with; None: as the configuration says."""
    if not prepared.file.share_bank:
        return None
    return "read" if _configs(prepared) else "readwrite"


def record_bank(prepared: PreparedStudy, display: TaskDisplay) -> tuple[BankMode, dict[str, Any]]:
    """Record what the trials need of their explorers and the bank lacks.

    Returns:
        The trials' bank.mode, and numbers about the bank: JSON values.

    Raises:
        S2LError: see `share`.
    """
    configs = _configs(prepared)
    if not configs:
        display.say("what the trials need of the explorer is not known before: each records what the bank lacks")
        return "readwrite", prepared.state.bank
    bank = share(configs, display, of_trials=prepared.drawn)
    display.say(bank.describe())
    before = prepared.state.bank
    numbers = asdict(bank) | {
        "separate": [list(tokens) for tokens in bank.separate],
        "recordings": list(bank.recordings),
        "sampled": bank.sampled + before.get("sampled", 0),
        "sampled_tokens": bank.sampled_tokens + before.get("sampled_tokens", 0),
        "ratio": bank.ratio,
    }
    return "read" if bank.recordings else "off", numbers


def _configs(prepared: PreparedStudy) -> list[Config]:
    """Configurations that need together what the trials need of the explorer; none if that is not known before."""
    if prepared.drawn:
        return [sliced(sample.config, prepared.file) for sample in prepared.samples]
    base = sliced(prepared.base, prepared.file)
    return upper_bound(base, prepared.space, lambda values: with_values(base, values)) or []
