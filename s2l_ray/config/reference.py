"""Every key of the configuration with its type, default and text, read from the models themselves.

`s2l config` prints them, and the configuration reference of the documentation is generated from them.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from s2l_ray.config.extension_points import REGISTRIES
from s2l_ray.config.run import Config
from s2l_ray.config.text import section_of
from s2l_ray.config.unknown import unknown_config_key
from s2l_ray.errors import ConfigError

MISSING = "???"
"""A value that a file leaves to whoever uses it."""
_NEW_ITEM = re.compile(r"- |`[^`]+`( \([^)]*\))?:")
"""How a line of a docstring begins that is an item of a list: "- ", or a value in backquotes and a colon."""


@dataclass(frozen=True)
class Key:
    """One key of the configuration."""

    name: str
    """Dotted, such as `rollout.max_tokens`."""
    type: str
    """What a value may be, such as `integer > 0`, `auto | on | off` or `path | null`. Where it names a function, these
    are the names in the key's registry."""
    default: str | None
    """As YAML; None where the key must be given."""
    text: str
    """What the key means: Markdown, its paragraphs and list items (`- `) unwrapped, one a line."""

    @property
    def section(self) -> str:
        """The dotted name without its last part; empty for a key at the top level."""
        return self.name.rpartition(".")[0]


def keys(prefix: str = "") -> list[Key]:
    """The keys at or below `prefix` (`rollout`, `rollout.max_tokens`), in the order of the models; "" is all of them.

    Raises:
        ConfigError: there is no such key or section; the nearest ones are named.
    """
    prefix = prefix.partition("=")[0]  # as an override has it
    every = keys_of(Config)
    found = [key for key in every if not prefix or key.name == prefix or key.name.startswith(f"{prefix}.")]
    if not found:
        raise ConfigError(unknown_config_key(prefix))
    return found


def keys_of(model: type[BaseModel]) -> list[Key]:
    """The keys of a file that a model describes, with those of its sections."""
    schema = model.model_json_schema()
    return list(_walk(model, schema.get("$defs", {}) | {model.__name__: schema}, "", None))


class Difference(NamedTuple):
    """A key whose value differs between two configurations, with both values as YAML."""

    name: str
    first: str
    second: str


def differences(first: Config, second: Config) -> list[Difference]:
    """The keys in which two configurations differ, in the order of the models."""
    values = [dict(_values(config)) for config in (first, second)]
    return [
        Difference(name, as_yaml(value), as_yaml(values[1][name]))
        for name, value in values[0].items()
        if value != values[1][name]
    ]


def values_of(config: Config) -> dict[str, str]:
    """Every key with its value as YAML, in the order of the models."""
    return {name: as_yaml(value) for name, value in _values(config)}


def _values(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every key of a section."""
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _walk(model: type[BaseModel], schemas: dict[str, Any], prefix: str, defaults: BaseModel | None) -> Iterator[Key]:
    """The keys of a model and of the sections in it.

    Args:
        schemas: JSON schema of the model and of each section, by the names of their classes.
        defaults: the section's value where nobody gives one; None where it must be given.
    """
    properties = schemas[model.__name__]["properties"]
    for name, field in model.model_fields.items():
        required = field.is_required() if defaults is None else False
        default = getattr(defaults, name) if defaults is not None else field.get_default(call_default_factory=True)
        default = None if required else default
        if section := section_of(field.annotation):
            yield from _walk(section, schemas, f"{prefix}{name}.", default)
            continue
        shown = None if required else as_yaml(default)
        registry = REGISTRIES.get(f"{prefix}{name}")
        kind = " | ".join((*registry.names, "module:function")) if registry else _type(properties[name])
        yield Key(f"{prefix}{name}", kind, shown, _unwrapped(field.description or ""))


def as_yaml(value: Any) -> str:
    """A key's value as it would be written in a file, in one line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, str) and (value == MISSING or re.fullmatch(r"[\w/.+-]+", value)):
        return value
    if isinstance(value, datetime.date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False).replace("e-0", "e-")


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if alternatives := schema.get("anyOf"):
        return " | ".join(map(_type, alternatives))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " | ".join(map(str, values))
    match schema["type"]:
        case "object" | "boolean" as kind:
            return {"object": "mapping", "boolean": "true | false"}[kind]
        case "string":
            return {"path": "path", "date": "date"}.get(schema.get("format", ""), "text")
        case "array":
            items = schema.get("prefixItems", [schema["items"]] if "items" in schema else [])
            count = f"{len(items)} x " if "prefixItems" in schema else ""
            return f"list of {count}{_type(items[0])}"
        case kind:
            return f"{kind}{_range(schema)}"


def _range(schema: dict[str, Any]) -> str:
    """The bounds of a number, such as " > 0" or " in [0, 1)"; empty where it has none."""
    if (low := schema.get("minimum", schema.get("exclusiveMinimum"))) is None:
        return ""
    if (high := schema.get("maximum", schema.get("exclusiveMaximum"))) is None:
        return f" {'>=' if 'minimum' in schema else '>'} {low:g}"
    return f" in {'[' if 'minimum' in schema else '('}{low:g}, {high:g}{']' if 'maximum' in schema else ')'}"


def _unwrapped(text: str) -> str:
    """A docstring with one line for each paragraph and list item; blank lines stay between paragraphs."""
    lines: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if not lines or not lines[-1] or not line or _NEW_ITEM.match(line):
            lines.append(f"- {line}" if lines and line.startswith("`") else line)
        else:
            lines[-1] += f" {line}"
    return "\n".join(lines)
