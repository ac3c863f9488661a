"""The bank of a study: whether it is known before what the trials need, and recording it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from s2l_ray.config import Config
from s2l_ray.display import TaskDisplay
from s2l_ray.kinds import BankMode
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.slicing import slice_of
from s2l_ray.tuning.bound import upper_bound
from s2l_ray.tuning.needs import needs_of
from s2l_ray.tuning.preparing import PreparedStudy
from s2l_ray.tuning.recordings import rollouts_of
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


def described_need(prepared: PreparedStudy, cluster: Inventory, display: TaskDisplay) -> str | None:
    """How many explorer rollouts the bank needs, in a line; None if that is not known before, or nothing is shared.

    Nothing is sampled, and the bank is not looked at.

    Raises:
        S2LError: a trial's explorer, data or verifier cannot be used.
    """
    configs = _configs(prepared) if prepared.file.share_bank else []
    if not configs:
        return None
    needs = needs_of(configs, slice_of(cluster, configs[0].placement), display)
    together = rollouts_of(needs)
    if not prepared.drawn:
        return f"the trials need at most {together} explorer rollouts, which are recorded before they begin"
    separate = sum(request.count for need in needs for request in need.requests)
    return (
        f"the trials need {together} explorer rollouts, which are recorded before they begin unless the bank has them; "
        f"{len(needs)} separate runs would sample {separate}"
    )


def _configs(prepared: PreparedStudy) -> list[Config]:
    """Configurations that need together what the trials need of the explorer; none if that is not known before."""
    if prepared.drawn:
        return [sliced(sample.config, prepared.file) for sample in prepared.samples]
    base = sliced(prepared.base, prepared.file)
    return upper_bound(base, prepared.space, lambda values: with_values(base, values)) or []
