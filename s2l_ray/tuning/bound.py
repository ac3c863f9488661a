"""Configurations that need together at least what any trial of a search space needs of the explorer.

For searches whose samples are not known before the study starts (Optuna). A key that makes no difference to the
explorer's rollouts is passed over. Where more of a key never means fewer rollouts, only its largest value counts; of
any other key all values do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import islice, product
from typing import Any

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError
from s2l_ray.schedule import SCHEDULES
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.needs import CHOOSING, SAMPLING
from s2l_ray.tuning.space import Space, Values

GROWING = ("schedule.steps", "schedule.mix_steps", "schedule.start")
"""With a schedule of this package a rollout that a run needs is needed too if one of these is larger."""
MOST = 512
"""Number of combinations that are worked out."""
TRIES = 64
"""Number of values of the other keys with which a combination is tried before it is taken as impossible."""


def upper_bound(base: Config, space: Space, configure: Callable[[Values], Config]) -> list[Config] | None:
    """Configurations that need together at least what any trial needs; None if there are too many to name.

    Args:
        base: the configuration without what is varied.
        space: what is varied.
        configure: the configuration of a trial with these values.

    Returns:
        None if a number that can be anything between two bounds decides what the explorer's rollouts are (a
        temperature), or if there are more than `MOST` combinations.
    """
    decisive = {key: domain for key, domain in space.domains.items() if _decides(key)}
    others = Space({key: domain for key, domain in space.domains.items() if key not in decisive})
    grows = GROWING if _all_built_in(base, decisive) else ()
    values = {key: _largest(domain) if key in grows else _all(domain) for key, domain in decisive.items()}
    known = {key: of_key for key, of_key in values.items() if of_key is not None}
    if len(known) < len(values) or math.prod(map(len, known.values())) > MOST:
        return None
    combinations = (dict(zip(known, combination, strict=True)) for combination in product(*known.values()))
    found = (_possible(_within_steps(base, values), others, configure) for values in combinations)
    return [config for config in found if config is not None]


def _decides(key: str) -> bool:
    """Whether a key, or one in the section that it names, makes a difference to which rollouts are needed."""
    return key == "rollout.explorer_seed" or _within(key.split("."), SAMPLING) or _within(key.split("."), CHOOSING)


def _within(path: list[str], keys: Any) -> bool:
    if keys is True or not path:
        return True
    first, *rest = path
    return first in keys and _within(rest, keys[first] if isinstance(keys, Mapping) else True)


def _all_built_in(base: Config, domains: Mapping[str, Domain]) -> bool:
    """Whether every schedule that trials may have is one whose growth is known."""
    kinds = domains["schedule.kind"].values if "schedule.kind" in domains else (base.schedule.kind,)
    return "schedule" not in domains and all(map(SCHEDULES.is_built_in, kinds))


def _largest(domain: Domain) -> tuple[Any, ...]:
    return (max(domain.corners),)


def _all(domain: Domain) -> tuple[Any, ...] | None:
    """All values of a domain; None if they cannot be counted."""
    if domain.randint is None:
        return domain.values or None
    low, high = domain.randint
    return tuple(range(low, high + 1)) if high - low < MOST else None


def _within_steps(base: Config, values: Values) -> Values:
    """The values, with a T_mix of at most T: a larger one is impossible, and so no trial's."""
    if "schedule.mix_steps" not in values:
        return values
    steps = values.get("schedule.steps", base.schedule.steps)
    return values | {"schedule.mix_steps": min(values["schedule.mix_steps"], steps)}


def _possible(values: Values, others: Space, configure: Callable[[Values], Config]) -> Config | None:
    """The configuration with these values and some of the other keys; None if it is impossible with all of them."""
    for rest in islice(others.corners(), TRIES):
        try:
            return configure(values | rest)
        except ConfigError:
            continue
    return None
