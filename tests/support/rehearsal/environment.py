"""A container's environment and words, as the kubelet makes them: values of objects and fields, `$(NAME)` replaced."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from tests.support.rehearsal.operator import Object

Objects = Mapping[tuple[str, str], Object]
"""Secrets and ConfigMaps, by kind and name."""
REFERENCE = re.compile(r"\$(\$)?\((\w+)\)")
LABEL = re.compile(r"metadata\.labels\['(.+)'\]")


def contents(objects: Objects, kind: str, name: str) -> dict[str, str]:
    """The entries of a Secret or ConfigMap."""
    assert (kind, name) in objects, f"there is no {kind} {name}"
    found = objects[kind, name]
    data: dict[str, str] = found.get("data") or {}
    if kind == "Secret":
        data = {key: base64.b64decode(text).decode() for key, text in data.items()} | (found.get("stringData") or {})
    return data


def environment(container: Object, pod: Object, address: str, objects: Objects) -> dict[str, str]:
    """The variables that the pod declares for the container."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        kind = "Secret" if "secretRef" in source else "ConfigMap"
        name = (source.get("secretRef") or source["configMapRef"])["name"]
        found |= {source.get("prefix", "") + key: text for key, text in contents(objects, kind, name).items()}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            text = _from(variable["valueFrom"], pod, address, objects)
        else:
            text = expand(variable.get("value", ""), found)
        if text is not None:
            found[variable["name"]] = text
    return found


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; a name that is not known stays as it is, and `$$(` stands for `$(`."""

    def replace(match: re.Match[str]) -> str:
        return match[0][1:] if match[1] else known.get(match[2], match[0])

    return REFERENCE.sub(replace, text)


def _from(source: Object, pod: Object, address: str, objects: Objects) -> str | None:
    if "fieldRef" in source:
        return _field(source["fieldRef"]["fieldPath"], pod, address)
    for key, kind in {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}.items():
        if key in source:
            reference = source[key]
            if reference.get("optional") and (kind, reference["name"]) not in objects:
                return None
            found = contents(objects, kind, reference["name"])
            assert reference["key"] in found, f"{kind} {reference['name']} has no {reference['key']}"
            return found[reference["key"]]
    raise NotImplementedError(f"{sorted(source)} is not rehearsed")


def _field(path: str, pod: Object, address: str) -> str:
    if label := LABEL.fullmatch(path):
        return str(pod["metadata"]["labels"][label[1]])
    fields = {"metadata.name": pod["metadata"]["name"], "metadata.namespace": pod["metadata"]["namespace"]}
    fields |= {"status.podIP": address, "status.hostIP": address, "spec.nodeName": pod["metadata"]["name"]}
    return str(fields[path])
