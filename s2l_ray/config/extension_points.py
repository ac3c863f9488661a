"""The keys of a configuration that name functions, and what they name in a given configuration."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from s2l_ray.config.run import Config
from s2l_ray.extensions import VERIFIERS, Registry
from s2l_ray.objective import ADVANTAGES, CORRECTIONS, LOSSES
from s2l_ray.schedule import ADAPTIVE, SCHEDULES


class Extension(NamedTuple):
    """One key and its value."""

    key: str
    registry: Registry[Any]
    name: str


REGISTRIES: dict[str, Registry[Any]] = {
    "verifier.kind": VERIFIERS,
    "schedule.kind": SCHEDULES,
    "objective.advantage": ADVANTAGES,
    "objective.loss": LOSSES,
    "objective.correction.explorer": CORRECTIONS,
    "objective.correction.learner": CORRECTIONS,
}
"""The registry of each key that names a function."""


def extensions(config: Config) -> Iterator[Extension]:
    """Every key that names a function of a registry."""
    for key, registry in REGISTRIES.items():
        name = attrgetter(key)(config)
        if (key, name) != ("schedule.kind", ADAPTIVE):  # a controller, not a function
            yield Extension(key, registry, name)


def check_extensions(config: Config) -> None:
    """Fail now, before anything else runs, if a function that the configuration names cannot be used.

    Raises:
        ConfigError: see `Registry.resolve` and `ScheduleConfig.build`.
    """
    for extension in extensions(config):
        extension.registry.resolve(extension.name, extension.key)
    config.verifier.check()
    config.schedule.build(config.rollout.group_size)


def sources(config: Config) -> dict[str, str]:
    """The source of the module of every function that is the user's own, by its key; none where it cannot be read."""
    found: dict[str, str] = {}
    for key, registry, name in extensions(config):
        try:
            source = registry.source_of(name)
        except OSError:
            continue
        if source is not None:
            found[key] = source
    return found
