"""Names, labels and their lengths."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.kubernetes.core_schemas import is_custom
from tests.support.kubernetes.objects import Object, Problem, get, mapping, problems
from tests.support.kubernetes.pods import cluster_spec, pods

Found = Iterator[tuple[str, str]]

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
QUALIFIED = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
LONGEST = {"RayCluster": 53, "RayJob": 47, "Service": 63, "Namespace": 63, "StatefulSet": 52, "CronJob": 52, "Job": 63}
DNS_1035_KINDS = ("RayCluster", "RayJob", "Service")


def is_label(name: object) -> bool:
    """Whether a name is a DNS label (RFC 1123)."""
    return len(str(name)) <= 63 and bool(LABEL.fullmatch(str(name)))


def is_subdomain(name: object) -> bool:
    """Whether a name is a DNS subdomain: labels with dots between them."""
    return len(str(name)) <= 253 and all(LABEL.fullmatch(part) for part in str(name).split("."))


def is_label_key(key: str) -> bool:
    """Whether a label or annotation may have this key."""
    prefix, slash, name = key.rpartition("/")
    return len(name) <= 63 and bool(QUALIFIED.fullmatch(name)) and (not slash or is_subdomain(prefix))


def is_label_value(value: object) -> bool:
    """Whether a label may have this value."""
    return isinstance(value, str) and len(value) <= 63 and bool(LABEL_VALUE.fullmatch(value))


def name_problems(obj: Object) -> list[Problem]:
    """Names and labels that an API server or the Ray operator refuse, or that a derived name outgrows."""
    return problems(obj, [*_own_name(obj), *_labels(obj), *_inner_names(obj)])


def _own_name(obj: Object) -> Found:
    kind, name = obj.get("kind", ""), get(obj, "metadata", "name")
    if not name:
        if not get(obj, "metadata", "generateName"):
            yield "metadata.name", "is missing"
        return
    if len(name) > LONGEST.get(kind, 253):
        # A RayJob's cluster, and pods of a StatefulSet or CronJob, have longer names that must fit into a label.
        yield "metadata.name", f"has {len(name)} characters; a {kind} may have {LONGEST.get(kind, 253)}"
    if kind in DNS_1035_KINDS and not DNS_1035.fullmatch(name):
        yield "metadata.name", f"{name} is no DNS-1035 label (lower case, digits and dashes, a letter first)"
    elif not is_subdomain(name) and not str(obj.get("apiVersion")).startswith("rbac."):
        yield "metadata.name", f"{name} is no DNS name"


def _labels(obj: Object) -> Found:
    places = [("metadata", obj.get("metadata") or {})]
    places += [(f"{pod.path}.metadata", {"labels": pod.labels}) for pod in pods(obj)]
    for path, metadata in places:
        for key, value in mapping(metadata, "labels").items():
            if not is_label_key(key):
                yield f"{path}.labels", f"{key} is no label key"
            if not is_label_value(value):
                yield f"{path}.labels.{key}", f"{value!r} is no label value (text of at most 63 characters)"
        for key, value in mapping(metadata, "annotations").items():
            if not is_label_key(key) or not isinstance(value, str):
                yield f"{path}.annotations.{key}", "is no annotation of text"


def _inner_names(obj: Object) -> Found:
    for pod in pods(obj):
        for path, container in pod.containers():
            if not is_label(container.get("name")):
                yield path, f"container name {container.get('name')} is no DNS label"
            for port in container.get("ports") or []:
                name = port.get("name")
                if name is not None and (len(name) > 15 or not is_label(name)):
                    yield path, f"port name {name} is no DNS label of at most 15 characters"
    if (cluster := cluster_spec(obj)) and is_custom(obj):
        path, spec = cluster
        for index, group in enumerate(spec.get("workerGroupSpecs") or []):
            name = group.get("groupName")
            if not is_label(name):  # it becomes part of pod names and a label
                yield f"{path}.workerGroupSpecs[{index}].groupName", f"{name} is no DNS label"
