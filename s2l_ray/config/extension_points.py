"""The keys of a configuration that name functions, and what they name in a given configuration."""

from __future__ import annotations

from collections.abc import Iterator
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


def extensions(config: Config) -> Iterator[Extension]:
    """Every key that names a function of a registry."""
    objective = config.objective
    yield Extension("verifier.kind", VERIFIERS, config.verifier.kind)
    if config.schedule.kind != ADAPTIVE:
        yield Extension("schedule.kind", SCHEDULES, config.schedule.kind)
    yield Extension("objective.advantage", ADVANTAGES, objective.advantage)
    yield Extension("objective.loss", LOSSES, objective.loss)
    yield Extension("objective.correction.explorer", CORRECTIONS, objective.correction.explorer)
    yield Extension("objective.correction.learner", CORRECTIONS, objective.correction.learner)


def check_extensions(config: Config) -> None:
    """Fail now, before anything else runs, if a function that the configuration names cannot be used.

    Raises:
        ConfigError: see `Registry.resolve` and `ScheduleConfig.build`.
    """
    for extension in extensions(config):
        extension.registry.resolve(extension.name)
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
