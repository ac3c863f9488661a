"""The schemas of Kubernetes' own kinds, with unknown fields refused (PyPI package kubernetes-validate)."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.support.kubernetes.objects import Object, Problem, problems
from tests.support.kubernetes.pods import pods

VERSION = "1.37.0"
CUSTOM_GROUPS = ("kueue.x-k8s.io", "ray.io")


@lru_cache
def _folder() -> Path:
    # Not imported: only its data is wanted, and its reader loads 3 MB of definitions for every object.
    spec = importlib.util.find_spec("kubernetes_validate")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "kubernetes-json-schema" / f"v{VERSION}-local-strict"


@lru_cache
def _registry() -> Registry[Any]:
    definitions = json.loads((_folder() / "_definitions.json").read_text(encoding="utf-8"))
    return Resource.from_contents(definitions) @ Registry()


@lru_cache
def _validator(name: str) -> Draft202012Validator | None:
    path = _folder() / f"{name}.json"
    if not path.exists():
        return None
    schema = json.loads(path.read_text(encoding="utf-8"))
    return Draft202012Validator(schema, registry=_registry())


def is_custom(obj: Object) -> bool:
    """Whether an object is of a kind that KubeRay or Kueue define."""
    return str(obj.get("apiVersion", "")).partition("/")[0] in CUSTOM_GROUPS


def is_core(obj: Object) -> bool:
    """Whether an object is of one of Kubernetes' own kinds."""
    return not is_custom(obj) and _validator(_schema_name(obj)) is not None


def _schema_name(obj: Object) -> str:
    """Of `rbac.authorization.k8s.io/v1` only `rbac-v1` is part of it."""
    version = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", str(obj.get("apiVersion")))
    return f"{str(obj.get('kind')).lower()}-{version}"


def core_problems(obj: Object) -> list[Problem]:
    """What Kubernetes' own schemas refuse: of a core object all of it, of a custom one its pods and metadata."""
    found = []
    if not is_custom(obj):
        found += _errors(obj, _schema_name(obj), "")
        return problems(obj, found)
    found += _errors(obj.get("metadata") or {}, "objectmeta-meta-v1", "metadata")
    for pod in pods(obj):
        found += _errors(pod.spec, "podspec-v1", f"{pod.path}.spec")
    return problems(obj, found)


def _errors(value: Any, name: str, path: str) -> list[tuple[str, str]]:
    validator = _validator(name)
    if validator is None:
        return [("kind", f"Kubernetes {VERSION} has no kind of this apiVersion ({name})")]
    errors = sorted(validator.iter_errors(value), key=lambda error: error.json_path)
    return [(f"{path}{error.json_path[1:]}".lstrip("."), error.message[:200]) for error in errors]
