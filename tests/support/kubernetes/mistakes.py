"""Mistakes to seed into a good build."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import yaml

from tests.support.kubernetes.objects import Object, title
from tests.support.paths import ROOT

FOLDER = ROOT / "tests" / "support" / "kubernetes"
REMOVED = object()
"""The value of a field that is taken out."""


class Mistake(NamedTuple):
    """A change of one field of one object."""

    name: str
    object: str
    field: str
    """Keys and indices from the object down, with blanks between."""
    value: Any
    reason: str
    """Part of what must be said about it."""


def mistakes() -> dict[str, list[Mistake]]:
    """Those of mistakes.yaml, by who refuses them."""
    groups = yaml.safe_load((FOLDER / "mistakes.yaml").read_text(encoding="utf-8"))
    return {name: [_mistake(*row) for row in table] for name, table in groups.items()}


def _mistake(name: str, title_: str, field: str, *rest: Any) -> Mistake:
    value, reason = rest if len(rest) == 2 else (REMOVED, *rest)
    return Mistake(name, title_, field, value, reason)


def spoiled(objects: list[Object], mistake: Mistake) -> tuple[Object, list[Object]]:
    """A copy of an object with a mistake in it, and the build with that object."""
    place = next(index for index, obj in enumerate(objects) if title(obj) == mistake.object)
    wrong = copy.deepcopy(objects[place])
    *keys, last = (int(key) if key.isdecimal() else key for key in mistake.field.split())
    value: Any = wrong
    for key in keys:
        value = value.setdefault(key, {}) if isinstance(value, dict) else value[key]
    if mistake.value is REMOVED:
        del value[last]
    else:
        value[last] = copy.deepcopy(mistake.value)
    return wrong, [*objects[:place], wrong, *objects[place + 1 :]]
