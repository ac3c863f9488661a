"""What the simulator needs, what it refuses, and what it leaves out: said before a number is printed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from s2l_ray.errors import ConfigError
from s2l_ray.schedule import ADAPTIVE

if TYPE_CHECKING:
    from s2l_ray.config import Config

LEFT_OUT = (
    "start, evaluation, checkpoints and tracking",
    "actors that fail, and rollouts that are resampled for it",
    "rollout.prefetch_gb, the bound on the bytes that are sampled ahead",
)
"""Not in any simulation."""


def check_packages() -> None:
    """Raise unless the simulator's own package is installed.

    Raises:
        ConfigError: it is not; the message says how to get it.
    """
    if find_spec("simpy") is None:
        raise ConfigError(
            "simulating a run needs simpy, which is not installed: pip install '.[simulate]' in a checkout of s2l-ray"
        )


def check_config(config: Config) -> None:
    """Raise for a configuration whose steps the simulator would get wrong.

    Raises:
        ConfigError: names each key that is not simulated.
    """
    rollout = config.rollout
    unknown = {
        "rollout.max_staleness": (rollout.max_staleness, "sampling with old weights while the trainer works"),
        "rollout.straggler_groups": (rollout.straggler_groups, "stopping the slowest groups of a step"),
        "rollout.refill_rounds": (rollout.refill_rounds, "replacing groups whose rewards are all equal"),
    }
    found = [f"{key}={value} ({what})" for key, (value, what) in unknown.items() if value]
    if found:
        raise ConfigError(
            f"not simulated: {'; '.join(found)}. The plan without --simulate is for the whole configuration; to "
            "simulate the run without them, set them to 0"
        )


def left_out(config: Config) -> tuple[str, ...]:
    """What a simulation of this configuration does not have in it."""
    if config.schedule.kind == ADAPTIVE:
        return ("the adaptive schedule's own course: its nominal one, a linear fall, is simulated", *LEFT_OUT)
    return LEFT_OUT
