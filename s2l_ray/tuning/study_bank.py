"""The bank of a study: whether it is known before what the trials need, and recording it."""

from __future__ import annotations

from collections.abc import Mapping
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
from s2l_ray.tuning.sharing import Held, SharedBank, share
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

    def remember(held: Held) -> None:
        """A start that is killed while it records has no other time to tell."""
        prepared.state.held = least(prepared.state.held, held)
        prepared.place.write(prepared.state)

    bank = share(configs, display, of_trials=prepared.drawn, begins=remember)
    display.say(bank.describe())
    return "read" if bank.recordings else "off", numbers_of(bank, prepared.state.held)


def least(before: Mapping[str, int], held: Held) -> dict[str, int]:
    """What the bank had of its own when it had least, at the starts of a study: all else was recorded for the study.

    Args:
        before: this of the starts before; empty at the first one.
        held: what the bank has at this start, what earlier starts have recorded included.
    """
    return {key: min(count, before.get(key, count)) for key, count in asdict(held).items()}


def numbers_of(bank: SharedBank, held: Mapping[str, int]) -> dict[str, Any]:
    """Numbers about the bank of a study, of all of its starts: JSON values.

    Args:
        bank: as the newest start has left it.
        held: see `least`.
    """
    return asdict(bank) | {
        "separate": [list(tokens) for tokens in bank.separate],
        "recordings": list(bank.recordings),
        "sampled": bank.rollouts - held["rollouts"],
        "sampled_tokens": bank.tokens - held["tokens"],
        "ratio": bank.ratio,
    }


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
