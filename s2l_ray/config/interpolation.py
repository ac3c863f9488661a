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
MOST = 16
"""Interpolations in one value."""
ENVIRONMENT = "oc.env"


def check_interpolations(values: dict[str, Any], where: str) -> None:
    """Refuse the interpolations of a configuration that is not resolved yet which are not what one may have.

    Args:
        values: nested; texts as OmegaConf reads them, in which a backslash before `${` makes it text.
        where: names the configuration in messages.

    Raises:
        ConfigError: a value has one that is refused; the key is named.
    """
    found = {key: _references(text, f"{where}: {key}") for key, text in _texts(values, "") if "${" in text}
    for key, references in found.items():
        for reference in references:
            target = _absolute(reference, key)
            if any(len(found[other]) > 1 for other in found if other == target or other.startswith(f"{target}.")):
                raise ConfigError(
                    f"{where}: {key}: ${{{reference}}} refers to a value that is put together of several others; write "
                    "these here"
                )


def _references(text: str, where: str) -> list[str]:
    """The keys that the interpolations of a text refer to."""
    written = WHOLE.findall(text)
    if len(BEGIN.findall(text)) != len(written):
        raise ConfigError(
            f"{where}: an interpolation is written ${{KEY}} or ${{{ENVIRONMENT}:NAME}}, with no other one in it; for "
            "these characters themselves write \\${"
        )
    if len(written) > MOST:
        raise ConfigError(f"{where}: has {len(written)} interpolations; {MOST} are the most")
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


def _absolute(reference: str, key: str) -> str:
    """The dotted key that a reference in the value of `key` means; `.a` is beside it, `..a` one section up."""
    name = re.sub(r"\[['\"]?([^\]'\"]*)['\"]?\]", r".\1", reference)
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        return name
    sections = key.split(".")[: -dots or None]
    return ".".join([*sections, name[dots:]]).rstrip(".")


def _texts(values: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Every text with its dotted key."""
    if isinstance(values, str):
        yield prefix, values
    elif isinstance(values, dict | list):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        for name, value in items:
            yield from _texts(value, f"{prefix}.{name}" if prefix else str(name))
