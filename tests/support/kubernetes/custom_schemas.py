"""The schemas of custom resources as an API server applies them: defaults, unknown fields, keys of lists, CEL rules."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cel
from jsonschema import Draft202012Validator

from tests.support.kubernetes.objects import Object, Problem, duplicates, problems, read

Found = Iterator[tuple[str, str]]


class Definition(NamedTuple):
    """One version of one kind."""

    schema: Object
    validator: Draft202012Validator


@lru_cache
def definitions(folder: Path) -> dict[tuple[str, str], Definition]:
    """The definitions that the files of a folder hold, by apiVersion and kind."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        for document in read(path):
            spec = document["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                    schema = version["schema"]["openAPIV3Schema"]
                    found[key] = Definition(schema, Draft202012Validator(_closed(schema)))
    return found


def schema_problems(obj: Object, folder: Path) -> list[Problem]:
    """What the definition of a custom resource refuses about it."""
    key = obj.get("apiVersion", ""), obj.get("kind", "")
    definition = definitions(folder).get(key)
    if definition is None:
        return problems(obj, [("kind", f"no definition of {key[1]} in {key[0]}")])
    whole = defaulted(obj, definition.schema)
    errors = sorted(definition.validator.iter_errors(whole), key=lambda error: error.json_path)
    found = [(error.json_path.removeprefix("$."), error.message[:200]) for error in errors]
    if not found:  # a rule may expect the types that the schema demands
        found = [*_repeated(whole, definition.schema, ""), *_broken_rules(whole, definition.schema, "")]
    return problems(obj, found)


def defaulted(obj: Object, schema: Object) -> Object:
    """A copy with the schema's defaults where nothing is given."""
    whole = copy.deepcopy(obj)
    _fill(whole, schema)
    return whole


def _fill(value: Any, schema: Object) -> None:
    if isinstance(value, dict):
        for key, inner in schema.get("properties", {}).items():
            if key not in value and "default" in inner:
                value[key] = copy.deepcopy(inner["default"])
    for _, inner_value, inner in _children(value, schema, ""):
        _fill(inner_value, inner)


def _children(value: Any, schema: Object, path: str) -> Iterator[tuple[str, Any, Object]]:
    """Path, value and schema of what stands directly under a value."""
    if isinstance(value, dict):
        extra = schema.get("additionalProperties")
        for key, inner_value in value.items():
            inner = schema.get("properties", {}).get(key, extra)
            if isinstance(inner, dict):
                yield f"{path}.{key}".lstrip("."), inner_value, inner
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, inner_value in enumerate(value):
            yield f"{path}[{index}]", inner_value, schema["items"]


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused, in the words of JSON Schema."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {}
    for key, part in schema.items():
        if key in ("properties", "additionalProperties", "items", "anyOf", "allOf", "oneOf", "not"):
            is_map = key == "properties"
            closed[key] = {name: _closed(inner) for name, inner in part.items()} if is_map else _closed(part)
        elif not key.startswith(("x-", "description", "default", "format")):
            closed[key] = part
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def _repeated(value: Any, schema: Object, path: str) -> Found:
    if isinstance(value, list) and (keys := schema.get("x-kubernetes-list-map-keys")):
        for index, key in duplicates([tuple(row.get(key) for key in keys) for row in value]):
            yield f"{path}[{index}]", f"repeats {', '.join(keys)} {', '.join(map(str, key))}"
    if isinstance(value, list) and schema.get("x-kubernetes-list-type") == "set":
        for index, item in duplicates(value):
            yield f"{path}[{index}]", f"repeats {item}"
    for inner_path, inner_value, inner in _children(value, schema, path):
        yield from _repeated(inner_value, inner, inner_path)


def _broken_rules(value: Any, schema: Object, path: str) -> Found:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:  # about changes of an object that is there
            continue
        if not holds(rule["rule"], value):
            yield path, rule.get("message", rule["rule"])
    for inner_path, inner_value, inner in _children(value, schema, path):
        yield from _broken_rules(inner_value, inner, inner_path)


@lru_cache
def _compiled(rule: str) -> cel.Program:
    return cel.compile(rule)


def holds(rule: str, value: Any) -> bool:
    """Whether a CEL rule holds; one that reads a field that is not there does not, as in an API server."""
    try:
        return bool(_compiled(rule).execute({"self": value}))
    except (KeyError, RuntimeError, TypeError, ValueError):
        return False
