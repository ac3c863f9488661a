"""Reading a configuration: files, overrides, and errors that name the key."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from s2l_ray.config.interpolation import absolute, check_interpolations, references_of
from s2l_ray.config.problems import problems_of, shown
from s2l_ray.config.run import Config
from s2l_ray.config.shipped import CONFIGURATIONS
from s2l_ray.config.text import (
    MOST_BYTES,
    NOT_YAML,
    can_be_none,
    entry_type_of,
    from_python,
    is_text,
    listed,
    literal,
    read_yaml,
    section_of,
    type_of,
    yaml_problem,
)
from s2l_ray.config.unknown import is_known, unknown_config_key
from s2l_ray.errors import ConfigError
from s2l_ray.machine.reading import read_bounded

MOST_FILES = 100
"""Files that one configuration is made of."""
NO_VARIABLE = re.compile(r"Environment variable '(\w+)' not found")
"""What OmegaConf says of a variable that is not set."""
NO_KEY = re.compile(r"Interpolation key '([^']+)' not found")
"""What OmegaConf says of a key that an interpolation names and that has no value."""


class ConfigFile(Config):
    """The keys of a file: those of a run, and `extends`."""

    extends: str | tuple[str, ...] = ()
    """Files that are read before this one: paths relative to it, or names of shipped configurations."""


def load_config(path: str | Path, *overrides: list[str] | dict[str, Any] | None) -> Config:
    """Read a YAML configuration.

    Args:
        path: the file, or the name of a shipped configuration (see `shipped.ShippedFiles.find`). What its `extends:`
            names (one or a list, relative to the file) is read first.
        overrides: dotted `key=value` strings, or a (nested or dotted) dictionary; of several the last one has
            precedence. The text for a text key is taken as it is given, `${...}` included, but `key=null` is none where
            the key can be none. Other values are YAML.

    Raises:
        ConfigError: a file is missing or malformed, a key is unknown (the nearest valid one is named), a value has the
            wrong type or is impossible.
    """
    return _load(path, overrides, incomplete=False)


def load_incomplete(path: str | Path) -> Config:
    """A configuration to look at, not to run: a text key that is `???` in its file has this text as its value.

    Raises:
        ConfigError: as `load_config`.
    """
    return _load(path, (), incomplete=True)


def config_of(values: dict[str, Any], where: str, *overrides: list[str] | dict[str, Any] | None) -> Config:
    """A configuration of nested values in place of a file.

    Args:
        values: as a file would have them.
        where: names them in error messages.
        overrides: as for `load_config`.

    Raises:
        ConfigError: as `load_config`.
    """
    return _resolved(_with(OmegaConf.create(values), overrides, where), where, incomplete=False)


def load_many(
    path: str | Path, *overrides: list[str] | dict[str, Any] | None
) -> Callable[[dict[str, Any] | None], Config]:
    """What makes configurations that differ in a few values only, as `load_config(path, *overrides, values)` does.

    The file and the overrides are read once, which is most of the work.

    Raises:
        ConfigError: as `load_config`, here or for each configuration.
    """
    merged = _with(_read(CONFIGURATIONS.find(path), ()), overrides, str(path))
    return lambda values: _resolved(_with(merged, [values], str(path)), str(path), incomplete=False)


def interpolations(path: str | Path, *overrides: list[str] | dict[str, Any] | None) -> dict[str, list[str]]:
    """The dotted keys that interpolate others -> the dotted keys that each refers to; one may be a section.

    Raises:
        ConfigError: as `load_config`.
    """
    merged = _with(_read(CONFIGURATIONS.find(path), ()), overrides, str(path))
    return references_of(_unresolved(merged), str(path))


def _load(path: str | Path, overrides: Sequence[list[str] | dict[str, Any] | None], *, incomplete: bool) -> Config:
    merged = _with(_read(CONFIGURATIONS.find(path), ()), overrides, str(path))
    return _resolved(merged, str(path), incomplete=incomplete)


def _with(merged: DictConfig, overrides: Sequence[list[str] | dict[str, Any] | None], where: str) -> DictConfig:
    """A new configuration with these overrides, and with its interpolations as they are."""
    layers = [layer for given in overrides for layer in _layers(given)]
    try:
        for layer in layers:  # one by one: a later one changes what it names, and nothing beside it
            merged = _merged(merged, _spelled_out(layer))
    except OmegaConfBaseException as error:
        raise ConfigError(_explain_omegaconf(error, where)) from error
    return merged


def _resolved(merged: DictConfig, where: str, *, incomplete: bool) -> Config:
    check_interpolations(_unresolved(merged), where)
    try:
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=not incomplete)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain_omegaconf(error, where)) from error
    return parse_config(cast(dict[str, Any], values), where)


def parse_config(values: dict[str, Any], where: str = "config") -> Config:
    """Validate a plain dictionary; `where` names it in error messages."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = problems_of(error, Config, lambda location: unknown_config_key(".".join(map(str, location))))
        separator = " " if len(problems) == 1 else "\n  "
        raise ConfigError(f"{where}:{separator}{listed(problems)}") from None


def _unresolved(merged: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(merged, resolve=False))


# ---- files ----------------------------------------------------------------------------------------------------------


def _read(path: Path, seen: tuple[Path, ...], left: Iterator[int] | None = None) -> DictConfig:
    """The keys of a file and of those that it extends: `seen` leads to it, `left` counts what may still be read."""
    path, content = _content(path)
    left = iter(range(MOST_FILES)) if left is None else left
    if next(left, None) is None:
        raise ConfigError(f"{path}: extends: the configuration is made of more than {MOST_FILES} files")
    if path in seen:
        raise ConfigError("extends goes in a circle: " + " -> ".join(str(p) for p in (*seen, path)))
    try:
        if not content.strip():
            raise ConfigError(
                f"{path} is empty; write keys into it, or, if a run wrote it, restore it from a copy: it is damaged"
            )
        own = read_yaml(content, ConfigFile)
        if not isinstance(own, dict | None):
            raise ConfigError(f"{path} must be a mapping of keys to values")
        own = OmegaConf.create(_spelled_out(own or {}))
        bases = _bases(own, path)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain_omegaconf(error, str(path))) from error
    except NOT_YAML as error:
        raise ConfigError(f"{path} is not valid YAML: {yaml_problem(error)}") from error
    return _merged(*[_read(_extended(base, path), (*seen, path), left) for base in bases], own)


def _extended(base: str, path: Path) -> Path:
    """The file that `extends: base` of the file `path` names."""
    found = CONFIGURATIONS.find(base, path.parent, but=path)
    if os.path.exists(found) or "\0" in base:  # what else is wrong with it is said when it is read
        return found
    raise ConfigError(f"{path}: extends: {found} does not exist; {CONFIGURATIONS.hint(found)}")


def _merged(*layers: DictConfig | dict[str, Any]) -> DictConfig:
    """Layers in order of increasing precedence, as one."""
    return cast(DictConfig, OmegaConf.merge(*layers))  # mappings make a mapping


def _bases(own: DictConfig, path: Path) -> Sequence[str]:
    """What `extends` names; takes it out of a file's own keys."""
    bases = own.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, Sequence) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: extends must be the path of a file, or a list of such paths")
    return bases


def _content(path: Path) -> tuple[Path, bytes]:
    """The file's resolved path and what it holds."""
    named = f"configuration file {path}"
    try:
        resolved = path.resolve()
        named = f"{named} (a link to {resolved})" if path.is_symlink() else f"configuration file {path.absolute()}"
        return resolved, read_bounded(resolved, MOST_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{named} does not exist; {CONFIGURATIONS.hint(path)}") from None
    except OSError as error:
        raise ConfigError(f"{named} cannot be read: {error.strerror}") from error
    except (RuntimeError, ValueError) as error:  # links that go in a circle, a NUL character
        raise ConfigError(f"configuration file {str(path)!r} cannot be read: {error}") from error


def _spelled_out(layer: dict[str, Any]) -> dict[str, Any]:
    """`bank: read` as `bank: {mode: read}`, so that what another layer says of the bank stays."""
    if "bank" in layer and not isinstance(layer["bank"], Mapping):
        return layer | {"bank": {"mode": layer["bank"]}}
    return layer


# ---- overrides ------------------------------------------------------------------------------------------------------


def _layers(overrides: list[str] | dict[str, Any] | None) -> list[dict[str, Any]]:
    if isinstance(overrides, dict):
        return [_from_python(key, value) for key, value in overrides.items()]
    return [_from_word(*_split(item)) for item in overrides or []]


def _split(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not key or not equals:
        raise ConfigError(f"override {shown(item)}: write it as key=value")
    return key, value


def _from_word(key: str, value: str) -> dict[str, Any]:
    """The layer of keys that an override `key=value` adds."""
    key_type = type_at(key)
    if is_text(key_type):
        if "${" in value and _is_path(key):
            item = shown(f"{key}={value}")
            raise ConfigError(
                f"override {item}: text on the command line is taken as it is typed, and ${{...}} is read in files "
                f'alone; write the path out, or let the shell put a variable in, as in "{key}=$DIRECTORY/..."'
            )
        return _nested(key, None if value == "null" and can_be_none(key_type) else literal(value))
    try:
        return _nested(key, read_yaml(value, key_type))
    except NOT_YAML as error:
        item = shown(f"{key}={value}")
        raise ConfigError(f"override {item}: the value is not valid YAML: {yaml_problem(error)}") from error


def _is_path(key: str) -> bool:
    """Whether the value of a text key is a path, in which nobody means `${` as it is."""
    from s2l_ray.config.reference import keys  # makes schemas of all sections, which few overrides need

    return any(known.type.startswith("path") for known in keys(key))


def _from_python(key: str, value: Any) -> dict[str, Any]:
    return _nested(key, from_python(value, type_at(key)))


def type_at(key: str) -> Any:
    """The type of the value of a dotted key.

    Raises:
        ConfigError: there is no such key; the nearest one is named.
    """
    if not isinstance(key, str) or not all(key.split(".")):
        raise ConfigError(f"override {key!r}: that is not a key; keys are written like schedule.steps")
    key_type: Any = Config
    path: list[str] = []
    for part in key.split("."):
        section, entry_type = section_of(key_type), entry_type_of(key_type)
        if section is None and entry_type is None:
            raise ConfigError(f"override {key!r}: {'.'.join(path)} is a value and has no keys of its own")
        path.append(part)
        if section and part not in section.model_fields:
            raise ConfigError(f"override {unknown_config_key(key)}")
        key_type = type_of(section, part) if section else entry_type
    return key_type


def _nested(key: str, value: Any) -> dict[str, Any]:
    """`{"a": {"b": value}}` for the key a.b."""
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


# ---- what is wrong, in a line each ----------------------------------------------------------------------------------


def _explain_omegaconf(error: OmegaConfBaseException, where: str) -> str:
    key = error.full_key
    if isinstance(error, MissingMandatoryValue):
        return f"{where}: {key} must be given, as an override {key}=... or in a file"
    if variable := NO_VARIABLE.search(str(error)):
        name = variable[1]
        return (
            f"{where}: {key}: the environment variable {name} is not set; set it, or write ${{oc.env:{name},DEFAULT}}"
        )
    if isinstance(error, InterpolationKeyError) and (named := NO_KEY.search(str(error))):
        return f"{where}: {key}: ${{{named[1]}}}: {_why_it_has_no_value(absolute(named[1], key or ''))}"
    hint = "; for these characters themselves write \\${" if isinstance(error, GrammarParseError) else ""
    return f"{where}: {key + ': ' if key else ''}{str(error).splitlines()[0]}{hint}"


def _why_it_has_no_value(key: str) -> str:
    """What is wrong with a key that an interpolation names."""
    if is_known(key):
        return f"{key} has no value in the files and overrides, and its default is not read; give it a value"
    return unknown_config_key(key)
