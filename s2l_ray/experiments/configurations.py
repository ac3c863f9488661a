"""What each run of an experiment computes, by which its runs are found again elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import PurePath
from typing import Any

from s2l_ray.config import load_config
from s2l_ray.config.dotted import flat
from s2l_ray.config.embedded import source_name
from s2l_ray.errors import ConfigError
from s2l_ray.experiments.arms import EXPLORER_SEED, runs_of, study_of
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.run.identity import FREE_TO_CHANGE
from s2l_ray.tasks.sources import SOURCES
from s2l_ray.tuning.keys import default_of
from s2l_ray.tuning.ranking import SEED

Configuration = Mapping[str, Any]
"""The keys of a run that say what is computed, not where and how fast: JSON values by dotted key."""


def configurations_of(file: ExperimentFile, overrides: Sequence[str]) -> list[Configuration]:
    """The configuration of every run, in the order of `arms.runs_of`.

    Args:
        file: of the experiment.
        overrides: `key=value` of the configuration.

    Raises:
        ConfigError: one is impossible.
    """
    study = study_of(file, overrides)
    by_arm: dict[str, Configuration] = {}  # its runs differ in their seeds, and a configuration takes long to read
    found: list[Configuration] = []
    for run, values in zip(runs_of(file), study.runs, strict=True):
        if run.arm not in by_arm:
            config = load_config(file.config, dict(study.config), list(overrides), dict(values))
            keys = flat(config.model_dump(mode="json"))
            by_arm[run.arm] = {key: value for key, value in keys.items() if not is_free(key)}
        found.append({**by_arm[run.arm], **{key: values[key] for key in (SEED, EXPLORER_SEED) if key in values}})
    return found


PATHS = (*SOURCES, "rollout.replay_stragglers")
"""Keys whose values are paths, or name what is on the Hub."""
KEPT = 2
"""Last parts of a path that are compared. The name alone would not do: families of models are small/ and large/ in
directories of their own."""


def portable(configuration: Configuration) -> dict[str, Any]:
    """The same as it is on any machine: parts of the embedded family as such, paths by their last parts (KEPT)."""
    return {key: _portable(value) if key in PATHS else value for key, value in configuration.items()}


def completed(configuration: Configuration, keys: Iterable[str]) -> Configuration:
    """The same with the defaults of further keys: an earlier version, which did not know them, did what they say."""
    return {key: _default(key) for key in keys if key not in configuration} | dict(configuration)


@cache
def _default(key: str) -> Any:
    try:
        return default_of(key)
    except ConfigError:  # every configuration has it: the file was written by somebody else
        return None


def _portable(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    named = source_name(value)
    return "/".join(PurePath(value).parts[-KEPT:]) if named == value else named


def is_free(key: str) -> bool:
    """Whether a key only says where and how fast a run is computed."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
