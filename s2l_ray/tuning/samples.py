"""The trials of a study before they run: their values, their configurations, and whether they are possible."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from s2l_ray.config import Config
from s2l_ray.config.dotted import flat
from s2l_ray.config.loading import interpolations, load_many, parse_config
from s2l_ray.errors import ConfigError
from s2l_ray.tuning.keys import check_keys, checked_run, checked_space, refuse_interpolated, refuse_overrides
from s2l_ray.tuning.space import Space, Values, written
from s2l_ray.tuning.study_file import StudyFile

MOST_CORNERS, DRAWS = 32, 16
"""Where values are suggested while the study runs: how many corners of the space, and how many draws from it, are
checked before."""
MOST_TRIALS = 10_000
"""Of one study: all of them are drawn, checked and planned before it starts."""


@dataclass(frozen=True)
class Sample:
    """One trial that can be run."""

    number: int
    """From 1."""
    values: Values
    """The values of the space's keys."""
    config: Config
    """The whole configuration."""


@dataclass(frozen=True)
class StudyConfigs:
    """The configurations of a study's trials.

    Args:
        base: a configuration with some of the space's values; what is not varied is as in all trials.
        space: what is varied.
        given: values by dotted key -> the configuration, as if they were overrides of CONFIG.
    """

    base: Config
    space: Space
    given: Callable[[Values], Config]

    @classmethod
    def read(
        cls, config: str, overrides: Sequence[str], file: StudyFile, resolve: Callable[[Config], Values]
    ) -> StudyConfigs:
        """Read CONFIG with the study's values and overrides, the latter with precedence.

        Args:
            resolve: what was read -> values that replace some of it, such as absolute paths; not of varied keys.

        Raises:
            ConfigError: a file, key or value is impossible.
        """
        space = space_of(file)
        number_of_trials(file, space)
        check_keys(file.config, "config")
        refuse_overrides([*flat(file.config), *(word.partition("=")[0] for word in overrides)], file)
        given = (dict(file.config), list(overrides))
        configure = load_many(config, *given)
        some = _possible_values(space, file.seed, configure)
        refuse_interpolated(interpolations(config, *given), file)
        resolved = resolve(configure(some))
        configure = load_many(config, *given, {key: v for key, v in resolved.items() if key not in file.space})
        return cls(configure(some), space, configure)

    @classmethod
    def of(cls, base: Config, file: StudyFile) -> StudyConfigs:
        """Those of a configuration that has been read already, as by a study that is resumed."""
        return cls(base, space_of(file), lambda values: with_values(base, values))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The dotted keys that are varied."""
        return self.space.keys


def space_of(file: StudyFile) -> Space:
    """The search space of a study, with each value as the configuration has it.

    Raises:
        ConfigError: a key or value is impossible.
    """
    domains = checked_space(file)
    return Space(domains, [checked_run(run, domains, number) for number, run in enumerate(file.runs, 1)])


def _possible_values(space: Space, seed: int, configure: Callable[[Values], Config]) -> Values:
    """Values with which the configuration is possible: what is fixed may not be so with the values of CONFIG.

    Raises:
        ConfigError: there are none among the first draws and corners; the reason is that of the first draw.
    """
    count = len(space.combinations)
    candidates = [*space.draw(count * -(-DRAWS // count), seed), *islice(space.corners(), MOST_CORNERS)]
    first: ConfigError | None = None
    for values in candidates:
        try:
            configure(values)
        except ConfigError as error:
            first = first or error
        else:
            return values
    raise first or ConfigError("space: empty")


def with_values(config: Config, values: Values) -> Config:
    """The configuration with other values, by dotted key.

    Raises:
        ConfigError: they cannot go together.
    """
    return parse_config(nested_with(config.model_dump(mode="json"), values))


def nested_with(config: dict[str, Any], values: Values) -> dict[str, Any]:
    """A nested configuration with other values, by dotted key; the given one is left as it is."""
    changed = copy.deepcopy(config)
    for key, value in values.items():
        *sections, name = key.split(".")
        section = changed
        for part in sections:
            section = section[part]
        section[name] = value
    return changed


def number_of_trials(file: StudyFile, space: Space) -> int:
    """How many trials the study has.

    Raises:
        ConfigError: `trials` is missing, or does not go with the grids.
    """
    combinations = space.number_of_combinations
    if file.search == "optuna" and space.is_listed:
        raise ConfigError("search: optuna chooses values by itself; write a list in place of each grid")
    if file.trials is None and not space.is_listed:
        raise ConfigError("trials: missing; say how many trials the study has")
    trials = file.trials or combinations
    if trials > MOST_TRIALS:
        raise ConfigError(f"trials: {trials} are more than a study may have ({MOST_TRIALS})")
    if trials % combinations:
        what = "the runs" if space.runs else "the combinations of the grids"
        raise ConfigError(f"trials ({trials}) must be a multiple of {combinations}, {what}")
    if file.scheduler.kind == "pbt" and trials < 2:
        raise ConfigError("scheduler.kind: pbt needs at least 2 trials")
    return trials


def drawn_samples(configs: StudyConfigs, file: StudyFile) -> list[Sample]:
    """The trials of a random search.

    Raises:
        ConfigError: values cannot go together; every such trial is named.
    """
    trials = number_of_trials(file, configs.space)
    return _all_possible(configs, configs.space.draw(trials, file.seed), of=trials)


def probes(configs: StudyConfigs, file: StudyFile) -> list[Sample]:
    """Samples over the whole space, where the trials' values are not known before: corners, then draws.

    Raises:
        ConfigError: values cannot go together.
    """
    number_of_trials(file, configs.space)
    corners = list(islice(configs.space.corners(), 10**5))
    if len(corners) > MOST_CORNERS:
        corners = random.Random(file.seed).sample(corners, MOST_CORNERS)
    return _all_possible(configs, [*corners, *configs.space.draw(DRAWS, file.seed)], of=None)


def _all_possible(configs: StudyConfigs, drawn: Iterable[Values], of: int | None) -> list[Sample]:
    samples, problems = [], []
    for number, values in enumerate(drawn, 1):
        try:
            samples.append(Sample(number, values, configs.given(values)))
        except ConfigError as error:
            problems.append((named(number if of else None, values), str(error)))
    if problems:
        raise ConfigError(refusal(problems, of))
    return samples


def named(number: int | None, values: Values) -> str:
    """A trial in a message: its number, if it has one, and its values."""
    return f"{'a trial' if number is None else f'trial {number}'} with {written(values)}"


def refusal(problems: Sequence[tuple[str, str]], of: int | None, most: int = 5) -> str:
    """What is said of impossible trials: how many there are, and each reason with the first trial that has it.

    Args:
        problems: (trial, reason).
        of: number of trials; None where they are not known yet.
        most: how many reasons are given.
    """
    by_reason: dict[str, list[str]] = {}
    for trial, reason in problems:
        by_reason.setdefault(reason, []).append(trial)
    lines = [
        f"{trials[0]}{f' and {len(trials) - 1} more' if len(trials) > 1 else ''}: {reason}"
        for reason, trials in by_reason.items()
    ]
    left_out = [f"{len(lines) - most} more reasons"] if len(lines) > most else []
    count = f"{len(problems)} of {of} trials cannot be run" if of else "the space has values that cannot be run"
    return f"{count}; change the space, or what is fixed, so that all values go together" + "".join(
        f"\n  {line}" for line in [*lines[:most], *left_out]
    )


def settings_of(sample: Sample, base: Config) -> Values:
    """Every value in which the trial differs from the base, by dotted key, as JSON values.

    These are the values of the space, and what the configuration interpolates from them.
    """
    before, values = (flat(config.model_dump(mode="json")) for config in (base, sample.config))
    changed = [key for key in before | values if before.get(key) != values.get(key)]
    return {key: values.get(key) for key in dict.fromkeys([*sample.values, *changed])}
