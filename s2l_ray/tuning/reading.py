"""Reading the file of a study, with errors that name the key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from s2l_ray.config import Config
from s2l_ray.config.problems import problems_of
from s2l_ray.config.reference import keys_of
from s2l_ray.config.section import Section
from s2l_ray.config.shipped import STUDIES
from s2l_ray.config.text import MOST_BYTES, NOT_YAML, listed, read_yaml, type_of, yaml_problem
from s2l_ray.errors import ConfigError
from s2l_ray.machine.reading import read_bounded
from s2l_ray.tuning.keys import checked_space
from s2l_ray.tuning.study_file import StudyFile

OVERRIDE = "tune."
"""How an override begins that changes a key of the study's file."""


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the configuration, and those of the study's file, which begin with `tune.`, without that."""
    of_study = [word.removeprefix(OVERRIDE) for word in overrides if word.startswith(OVERRIDE)]
    return [word for word in overrides if not word.startswith(OVERRIDE)], of_study


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyFile:
    """Read the file of a study.

    Args:
        path: the file, or the name of a study that s2l-ray ships.
        overrides: `key=value` with keys of the file, such as `trials=4` or `space.seed=[1, 2]`.

    Raises:
        ConfigError: it is missing or malformed, a key is unknown (the nearest is named) or a value impossible.
    """
    file = STUDIES.find(path)
    values = read_mapping(file, StudyFile, "study file", STUDIES.hint(path))
    return parse_study(overridden({"name": file.stem, **values}, overrides), f"study file {file}")


def read_mapping(file: Path, kind: type[Section], what: str, hint: str) -> dict[str, Any]:
    """The keys and values of a YAML file, not checked.

    Args:
        file: its path.
        kind: whose keys it has.
        what: it is, in messages.
        hint: what could be meant, where there is no such file.

    Raises:
        ConfigError: it is missing, or is no mapping.
    """
    try:
        values = read_yaml(read_bounded(file, MOST_BYTES), kind)
    except FileNotFoundError:
        raise ConfigError(f"{what} {file} does not exist; {hint}") from None
    except OSError as error:
        raise ConfigError(f"{what} {file} cannot be read: {error.strerror}") from None
    except NOT_YAML as error:
        raise ConfigError(f"{what} {file} is not valid YAML: {yaml_problem(error)}") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{what} {file} must be a mapping of keys to values")
    return dict(values or {})


def parse_study(values: dict[str, Any], where: str = "study") -> StudyFile:
    """Validate a plain dictionary; `where` names it in error messages.

    Raises:
        ConfigError: a key, of the file or in its space, is unknown or cannot be varied, or a value is impossible.
    """
    try:
        file = StudyFile.model_validate(_spelled_out(values))
        checked_space(file)
    except ValidationError as error:
        raise ConfigError(refused(where, error, StudyFile)) from None
    except ConfigError as error:
        separator = "\n  " if "\n" in str(error) else " "
        raise ConfigError(f"{where}:{separator}{error}") from None
    return file


def refused(where: str, error: ValidationError, kind: type[Section]) -> str:
    """Why a file with the keys of `kind`, named `where`, is refused."""
    problems = problems_of(error, kind, _nested_in_space)
    separator = " " if len(problems) == 1 else "\n  "
    return f"{where}:{separator}" + listed(problems)


def _spelled_out(values: dict[str, Any]) -> dict[str, Any]:
    """`scheduler: asha` as `scheduler: {kind: asha}`, so that an override of another key of it leaves its kind."""
    if isinstance(kind := values.get("scheduler"), str):
        return values | {"scheduler": {"kind": kind}}
    return values


def overridden(
    values: dict[str, Any], overrides: Sequence[str], kind: type[Section] = StudyFile, prefix: str = OVERRIDE
) -> dict[str, Any]:
    """The values of a file with others, given as `key=value`.

    Args:
        values: of the file.
        overrides: without the prefix.
        kind: whose keys they are.
        prefix: how they begin on the command line, for messages.

    Raises:
        ConfigError: an override is malformed.
    """
    values = _spelled_out(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise ConfigError(f"override {prefix}{override}: write it as {prefix}key=value")
        section, _, rest = key.partition(".")
        try:
            value = read_yaml(text, type_of(kind, section) if not rest else None)
        except NOT_YAML as error:
            raise ConfigError(
                f"override {prefix}{override}: the value is not valid YAML: {yaml_problem(error)}"
            ) from None
        inner = values.get(section)
        changed = {**(inner if isinstance(inner, dict) else {}), rest: value} if rest else value
        values = _spelled_out(values | {section: changed})
    return values


def _nested_in_space(location: Sequence[int | str]) -> str | None:
    """What is said of `space: {schedule: {kind: ...}}`."""
    key = _dotted(location[1:])
    if location[:1] == ("space",) and any(known.name == key for known in keys_of(Config)):
        return f"{_dotted(location[:-1])}: the keys of the space are dotted: write {key}"
    return None


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(map(str, location))
