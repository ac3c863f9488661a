"""Reading the file of an experiment, and the one that it extends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from s2l_ray.config.shipped import EXPERIMENTS
from s2l_ray.errors import ConfigError
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.tuning.reading import overridden, read_mapping, refused

OVERRIDE = "experiment."
"""How an override begins that changes a key of the experiment's file."""
EXTENDS = "extends"
OWN = ("name", EXTENDS, "earlier_looks")
"""Keys that an extending file does not inherit."""


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the configuration, and those of the experiment's file, which begin with `experiment.`, without."""
    of_file = [word.removeprefix(OVERRIDE) for word in overrides if word.startswith(OVERRIDE)]
    return [word for word in overrides if not word.startswith(OVERRIDE)], of_file


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentFile:
    """Read the file of an experiment.

    Where it `extends` another one, it inherits from that as the key's text says.

    Args:
        path: the file, or the name of an experiment that s2l-ray ships.
        overrides: `key=value` with keys of the file, such as `seeds=2`.

    Raises:
        ConfigError: it is missing or malformed, a key is unknown (the nearest is named) or a value impossible.
    """
    if any(word.partition("=")[0] == EXTENDS for word in overrides):
        raise ConfigError(f"override {OVERRIDE}{EXTENDS}: a file says itself what it extends; write one that does")
    file = EXPERIMENTS.find(path)
    values = {"name": file.stem} | _read(file, path, ())
    where = f"experiment file {file}"
    try:
        found = ExperimentFile.model_validate(_whole(overridden(values, overrides, ExperimentFile, OVERRIDE)))
    except ValidationError as error:
        raise ConfigError(refused(where, error, ExperimentFile)) from None
    return found


def _read(file: Path, asked: str | Path, under: tuple[Path, ...]) -> dict[str, Any]:
    """The values of a file, with those of the files that it extends.

    Args:
        file: to read.
        asked: how it was named.
        under: the files that extend it, to find a circle.
    """
    values = read_mapping(file, ExperimentFile, "experiment file", EXPERIMENTS.hint(asked))
    base = values.get(EXTENDS)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"experiment file {file}: extends: give the name or path of one experiment")
    found = EXPERIMENTS.find(base, file.parent, but=file)
    if not found.exists():
        raise ConfigError(f"experiment file {file}: extends: {found} does not exist; {EXPERIMENTS.hint(base)}")
    if found.resolve() in [one.resolve() for one in (*under, file)]:
        raise ConfigError(f"experiment file {file}: extends: {base} extends this file itself")
    inherited = _read(found, base, (*under, file))
    return _extended({key: value for key, value in inherited.items() if key not in OWN}, values)


def _extended(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    found = base | values
    for key in ("values", "arms"):
        inherited, own = base.get(key), values.get(key)
        if isinstance(inherited, dict) and isinstance(own, dict):
            found[key] = inherited | own
    arms, inherited_arms = found.get("arms"), base.get("arms")
    if isinstance(arms, dict) and isinstance(inherited_arms, dict):
        for name, arm in arms.items():
            if isinstance(before := inherited_arms.get(name), dict) and isinstance(arm, dict):
                arms[name] = before | arm
    return found


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    """Values without the arms that are null."""
    arms = values.get("arms")
    if not isinstance(arms, dict):
        return values
    return values | {"arms": {name: arm for name, arm in arms.items() if arm is not None}}
