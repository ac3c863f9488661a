"""Which interpolations a configuration may have: values of other keys, and variables of the environment.

OmegaConf also runs resolvers, whatever functions somebody has registered. A configuration is data, so these are
refused. A variable that holds a secret is refused, too: a run writes its configuration down, and logs it. What refers
to a value that refers to others, again and again, could become larger than any memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from s2l_ray.errors import ConfigError
from s2l_ray.redaction import is_secret_name

BEGIN = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
WHOLE = re.compile(r"(?<!\\)(?:\\\\)*\$\{([^{}]*)\}")
MOST = 200
"""Interpolations in one configuration."""
LONGEST = 2**20
"""Characters of a value that has some."""
ENVIRONMENT = "oc.env"


def check_interpolations(values: dict[str, Any], where: str) -> None:
    """Refuse the interpolations of a configuration that is not resolved yet which are not what one may have.

    Args:
        values: nested; texts as OmegaConf reads them, in which a backslash before `${` makes it text.
        where: names the configuration in messages.

    Raises:
        ConfigError: a value has one that is refused; the key is named.
    """
    texts, references = dict(_texts(values, "")), references_of(values, where)
    if (count := sum(map(len, references.values()))) > MOST:
        raise ConfigError(f"{where}: has {count} interpolations; {MOST} are the most")
    sizes: dict[str, int] = {}

    def size(key: str) -> int:
        """Characters of a text, resolved: at least as many as there will be. A circle is for OmegaConf to refuse."""
        if key not in sizes:
            sizes[key] = 0
            named = [o for target in references.get(key, ()) for o in texts if f"{o}.".startswith(f"{target}.")]
            sizes[key] = len(texts[key]) + sum(map(size, named))
        return sizes[key]

    for key in references:
        if size(key) > LONGEST:
            raise ConfigError(f"{where}: {key}: refers to values that refer to others, until it is larger than 1 MiB")


def references_of(values: dict[str, Any], where: str) -> dict[str, list[str]]:
    """The dotted keys whose values interpolate others -> the dotted keys that each refers to; one may be a section.

    Args:
        values, where: as for `check_interpolations`.

    Raises:
        ConfigError: an interpolation is refused; the key is named.
    """
    return {
        key: [absolute(reference, key) for reference in _references(text, f"{where}: {key}")]
        for key, text in _texts(values, "")
        if "${" in text
    }


def absolute(reference: str, key: str) -> str:
    """The dotted key that a reference in the value of `key` means; `.a` is beside it, `..a` one section up."""
    name = re.sub(r"\[['\"]?([^\]'\"]*)['\"]?\]", r".\1", reference)
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        return name
    sections = key.split(".")[: -dots or None]
    return ".".join([*sections, name[dots:]]).rstrip(".")


def _references(text: str, where: str) -> list[str]:
    """The keys that the interpolations of a text refer to."""
    written = WHOLE.findall(text)
    if len(BEGIN.findall(text)) != len(written):
        raise ConfigError(
            f"{where}: an interpolation is written ${{KEY}} or ${{{ENVIRONMENT}:NAME}}, with no other one in it; for "
            "these characters themselves write \\${"
        )
    references = []
    for one in written:
        resolver, colon, arguments = one.partition(":")
        if not colon:
            references.append(one.strip())
        elif resolver.strip() != ENVIRONMENT:
            raise ConfigError(
                f"{where}: ${{{resolver.strip()}:...}} would call a function, and a configuration is data; only "
                f"${{KEY}} and ${{{ENVIRONMENT}:NAME}} are read. For these characters themselves write \\${{"
            )
        elif is_secret_name(name := arguments.partition(",")[0].strip()):
            raise ConfigError(
                f"{where}: {name} looks like a secret, and a run writes its configuration down; leave it in the "
                "environment, where what needs it looks for it"
            )
    return references


def _texts(values: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Every text with its dotted key."""
    if isinstance(values, str):
        yield prefix, values
    elif isinstance(values, dict | list):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        for name, value in items:
            yield from _texts(value, f"{prefix}.{name}" if prefix else str(name))
