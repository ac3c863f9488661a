"""In which keys the configurations of runs differ, from each other or from the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2l_ray.config.reference import differences, keys, values_of
from s2l_ray.report.reading import RunFiles

PLACES = ("name", "run_dir")
"""Keys that differ from run to run and say nothing."""


@dataclass(frozen=True)
class Setting:
    """One key."""

    key: str
    values: tuple[str, ...]
    """As YAML, one for each run; of a single run the default comes first."""


def differing(runs: Sequence[RunFiles]) -> list[Setting]:
    """The keys in which several runs differ, in the order of the configuration."""
    first = runs[0].config
    names = {found.name for run in runs[1:] for found in differences(first, run.config)} - set(PLACES)
    values = [values_of(run.config) for run in runs]
    return [Setting(key, tuple(of_run[key] for of_run in values)) for key in values[0] if key in names]


def not_default(run: RunFiles) -> list[Setting]:
    """The keys that have another value than the default, with both."""
    defaults = {key.name: key.default for key in keys()}
    return [
        Setting(key, (default, value))
        for key, value in values_of(run.config).items()
        if (default := defaults.get(key)) is not None and default != value and key not in PLACES
    ]
