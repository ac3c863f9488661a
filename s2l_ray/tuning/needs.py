"""What each trial of a study needs of the explorer: prompts, fingerprint and requests, as its run will have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.bank.contents import fingerprint_of
from s2l_ray.bank.date import dated
from s2l_ray.bank.fingerprint import Fingerprint
from s2l_ray.bank.needed import needed_requests
from s2l_ray.bank.preparing import training_prompts
from s2l_ray.config import Config
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.tasks.sources import fetch_sources

SAMPLING: dict[str, Any] = {
    "models": True,
    "data": True,
    "verifier": {"kind"},
    "rollout": {"explorer", "max_tokens"},
    "engines": {"explorer": {"batch_invariant", "max_model_len"}},
    "placement": {"device"},
}
"""The keys that, with the explorer's seed, decide what its rollouts are, and which problems they are of."""
CHOOSING: dict[str, Any] = {
    "seed": True,
    "rollout": {"group_size", "prompts_per_step", "straggler_groups", "refill_rounds"},
    "schedule": True,
}
"""The keys that, with those and the number of prompts, decide which rollouts a run needs."""


@dataclass(frozen=True)
class Explored:
    """What a trial's explorer rollouts are: that of all trials with equal `SAMPLING`."""

    config: Config
    """As the run resolves it: what is on the Hub is pinned, data.date and models.dtype are set."""
    prompts: tuple[Prompt, ...]
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Need:
    """What one trial needs of the explorer."""

    explored: Explored
    requests: tuple[ExplorerRequest, ...]
    """By step; see `needed_requests`."""
    steps: int
    """Number of the run's steps."""


def needs_of(configs: Sequence[Config], inventory: Inventory, display: TaskDisplay) -> list[Need]:
    """The need of each trial. What several have in common is worked out once.

    Args:
        configs: of the trials.
        inventory: the nodes that a trial is planned on.
        display: shows downloads.

    Raises:
        S2LError: a trial's explorer, data or verifier cannot be used.
    """
    explored: dict[str, Explored] = {}
    requests: dict[str, tuple[ExplorerRequest, ...]] = {}
    found = []
    for config in configs:
        sampling = _values(config, SAMPLING) + str(config.explorer_seed)
        if sampling not in explored:
            explored[sampling] = _explored(config, inventory, display)
        choosing = sampling + _values(config, CHOOSING)
        if choosing not in requests:
            ids = [prompt.id for prompt in explored[sampling].prompts]
            requests[choosing] = tuple(needed_requests(config, ids))
        found.append(Need(explored[sampling], requests[choosing], config.schedule.steps))
    return found


def _explored(config: Config, inventory: Inventory, display: TaskDisplay) -> Explored:
    config, _ = fetch_sources(config, FetchDisplay(display))
    config = choose_dtype(config, inventory).applied_to(dated(config, bank=True))
    return Explored(config, tuple(training_prompts(config)), fingerprint_of(config))


def _values(config: Config, keys: dict[str, Any]) -> str:
    return json.dumps(config.model_dump(mode="json", include=keys))
