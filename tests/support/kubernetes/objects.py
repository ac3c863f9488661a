"""Parsed Kubernetes objects, and what can be wrong with one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Object = dict[str, Any]

SUFFIXES: dict[str, Decimal | int] = {
    "": 1,
    "m": Decimal("0.001"),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


class Problem(NamedTuple):
    """Why an object would be refused, or would not work."""

    object: str
    """`Kind/name`."""
    path: str
    """Of the field, `spec.template.spec.containers[1].image`."""
    reason: str

    def __str__(self) -> str:
        return f"{self.object}: {self.path}: {self.reason}"


def parsed(text: str) -> list[Object]:
    """The objects of a file of YAML documents, each with no part in common with another."""
    documents = yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    listed = [document["items"] if document.get("kind") == "List" else [document] for document in documents if document]
    return [json.loads(json.dumps(obj, default=str)) for objects in listed for obj in objects]


def read(path: Path) -> list[Object]:
    """The objects of a YAML file."""
    return parsed(path.read_text(encoding="utf-8"))


def title(obj: Object) -> str:
    """`Kind/name`, as messages call an object."""
    return f"{obj.get('kind', '?')}/{get(obj, 'metadata', 'name') or get(obj, 'metadata', 'generateName') or '?'}"


def get(obj: Any, *keys: str | int) -> Any:
    """The value under nested keys; None where one of them is missing."""
    for key in keys:
        if isinstance(obj, dict):
            obj = obj.get(key)
        elif isinstance(obj, list) and isinstance(key, int) and key < len(obj):
            obj = obj[key]
        else:
            return None
    return obj


def rows(obj: Any, *keys: str | int) -> list[Any]:
    """The list under nested keys; empty where there is none."""
    return get(obj, *keys) or []


def mapping(obj: Any, *keys: str | int) -> Object:
    """The mapping under nested keys; empty where there is none."""
    return get(obj, *keys) or {}


def problems(obj: Object, found: Iterable[tuple[str, str]]) -> list[Problem]:
    """Pairs of path and reason as problems of one object."""
    return [Problem(title(obj), path, reason) for path, reason in found]


def quantity(value: str | int | float) -> Decimal:
    """A resource quantity (`500m`, `2Gi`, `4`) as a number.

    Raises:
        ValueError: for text that is no quantity.
    """
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(value))
    if not found or found[2] not in SUFFIXES:
        raise ValueError(f"not a quantity: {value}")
    return Decimal(found[1]) * SUFFIXES[found[2]]


def duplicates(values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Index and value of each value that came before."""
    seen = []
    for index, value in enumerate(values):
        if value in seen:
            yield index, value
        seen.append(value)
