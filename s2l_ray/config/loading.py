"""Reading a configuration: files, overrides, and errors that name the key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from s2l_ray.config.run import Config
from s2l_ray.errors import ConfigError


def load_config(path: str | Path, overrides: list[str] | dict[str, Any] | None = None) -> Config:
    """Read a YAML configuration.

    Args:
        path: the file; its `extends:` (a path or a list of paths, relative to it) is read first.
        overrides: dotted `key=value` strings, or a (nested or dotted) dictionary.

    Raises:
        ConfigError: a file is missing or malformed, a key is unknown (the nearest valid one is named), a value has the
            wrong type or is impossible.
    """
    merged = _read(Path(path), ())
    try:
        if isinstance(overrides, dict):
            for key, value in overrides.items():
                OmegaConf.update(merged, key, _spelled_out({key: value})[key], merge=True)
        else:
            for item in overrides or []:  # one by one: a later one changes what it names, and nothing beside it
                if "=" not in item:
                    raise ConfigError(f"override {item!r}: write it as key=value")
                merged = OmegaConf.merge(merged, _spelled_out(OmegaConf.from_dotlist([item])))
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{path}: {error.full_key} must be given, as an override {error.full_key}=... or in a file"
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], where: str = "config") -> Config:
    """Validate a plain dictionary; `where` names it in error messages."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}:\n" + "\n".join(_explain(e) for e in error.errors())) from None


def _read(path: Path, seen: tuple[Path, ...]) -> Any:
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist")
    if path in seen:
        raise ConfigError("extends goes in a circle: " + " -> ".join(str(p) for p in (*seen, path)))
    try:
        own = OmegaConf.load(path)
    except Exception as error:  # OmegaConf lets PyYAML's many error classes through
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not OmegaConf.is_dict(own):
        raise ConfigError(f"{path} must be a mapping of keys to values")
    bases = own.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else list(bases)
    return OmegaConf.merge(*[_read(path.parent / base, (*seen, path)) for base in bases], _spelled_out(own))


def _spelled_out(layer: Any) -> Any:
    """`bank: read` as `bank: {mode: read}`, so that what another layer says of the bank stays."""
    if "bank" in layer and not isinstance(layer["bank"], (Mapping, DictConfig)):
        layer["bank"] = {"mode": layer["bank"]}
    return layer


def _explain(error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        valid = _keys_of(error["loc"][:-1])
        nearest = difflib.get_close_matches(str(error["loc"][-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys here: {', '.join(valid)}"
        return f"  {key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"  {key}: missing; give it a value"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    return f"  {key + ': ' if key else ''}{message}" + (
        "" if isinstance(given, (dict, BaseModel)) else f" (got {given!r})"
    )


def _keys_of(location: tuple[Any, ...]) -> list[str]:
    model: Any = Config
    for part in location:
        model = model.model_fields[part].annotation
    return sorted(model.model_fields)
