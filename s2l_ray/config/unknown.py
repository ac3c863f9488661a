"""What is said of a key that the configuration does not have, wherever it is named: a file, an override, a command."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from s2l_ray.config.nearest import nearest
from s2l_ray.config.renamed import what_became_of
from s2l_ray.config.run import Config
from s2l_ray.config.text import section_of

MOST = 4
"""Keys with one ending of which all are named."""


def unknown_config_key(key: str) -> str:
    """Such as "schedule.mix_step: unknown key; did you mean schedule.mix_steps?"."""
    return what_became_of(key) or f"{key}: unknown key; {_hint(key)}"


def meant_by(key: str) -> list[str]:
    """The keys and sections that could have been meant; there may be none."""
    names = list(names_of(Config))
    section, _, last = key.lower().rpartition(".")
    beside = _within(section, names)
    of_this_ending = [name for name in names if _last(name) == last][:MOST]
    if not section:  # a key is often given without its section
        near_beside, near_ending = nearest(last, beside), nearest(last, map(_last, names))
        return of_this_ending or near_beside or [name for name in names if _last(name) in near_ending][:MOST]
    near = [f"{section}.{found}" for found in nearest(last, map(_last, beside))]
    below = [name for name in of_this_ending if name.startswith(f"{section}.")]
    if near or below or (beside and "_" not in last):  # a single word means something else in another section
        return near or below
    return of_this_ending or ([] if beside else nearest(key, names))


def is_known(key: str) -> bool:
    """Whether it is a key or a section."""
    return key in names_of(Config)


def names_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of the keys and sections of a section, with those of its own sections."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if inner := section_of(field.annotation):
            yield from names_of(inner, f"{prefix}{name}.")


def _hint(key: str) -> str:
    if found := meant_by(key):
        return f"did you mean {' or '.join(found)}?"
    section = key.rpartition(".")[0]
    beside = _within(section, names_of(Config)) if section else []
    return f"valid keys here: {', '.join(map(_last, beside))}" if beside else "`s2l config` lists all keys"


def _within(section: str, names: Iterator[str] | list[str]) -> list[str]:
    return [name for name in names if name.rpartition(".")[0] == section]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
