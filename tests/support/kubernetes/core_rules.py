"""What an API server checks beyond the schemas of core objects, in our own words."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from decimal import Decimal

from tests.support.kubernetes.objects import Object, Problem, duplicates, get, mapping, problems, quantity, rows
from tests.support.kubernetes.pods import TEMPLATES, Pod, pods

Found = Iterator[tuple[str, str]]

LARGEST = 256 * 1024
"""Bytes of all annotations of an object together."""
EXPANSION = re.compile(r"(?<!\$)\$\(([A-Z_][A-Z0-9_]*)\)")


def core_rule_problems(obj: Object) -> list[Problem]:
    """Objects that fit their schema and are refused all the same."""
    found = [*_size(obj), *_selector(obj), *_restart_policy(obj), *_secret(obj), *_config_map(obj)]
    found += [*_service(obj), *_claim(obj)]
    for pod in pods(obj):
        found += [*_volumes(pod), *_containers(pod)]
        for path, container in pod.containers():
            found += [*_resources(path, container), *_probes(path, container), *_expansions(path, container)]
    return problems(obj, found)


def _size(obj: Object) -> Found:
    if (size := len(json.dumps(obj).encode())) > LARGEST:
        yield "metadata.annotations", f"kubectl apply keeps the object there, {size} bytes of at most {LARGEST}"


def _selector(obj: Object) -> Found:
    if obj.get("kind") not in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
        return
    selector = mapping(obj, "spec", "selector", "matchLabels")
    labels = mapping(obj, "spec", "template", "metadata", "labels")
    if not selector and not get(obj, "spec", "selector", "matchExpressions"):
        yield "spec.selector", "selects nothing"
    for key, value in selector.items():
        if labels.get(key) != value:
            yield f"spec.selector.matchLabels.{key}", f"the pod template is not labelled {key}={value}"


def _restart_policy(obj: Object) -> Found:
    kind = obj.get("kind", "")
    if kind not in TEMPLATES or kind == "Pod":
        return
    policy = get(obj, *TEMPLATES[kind], "spec", "restartPolicy")
    path = ".".join([*TEMPLATES[kind], "spec.restartPolicy"])
    if kind in ("Job", "CronJob") and policy not in ("Never", "OnFailure"):
        yield path, f"a {kind} needs Never or OnFailure, not {policy or 'the default'}"
    if kind not in ("Job", "CronJob") and policy not in (None, "Always"):
        yield path, f"a {kind} needs Always, not {policy}"


def _secret(obj: Object) -> Found:
    if obj.get("kind") != "Secret":
        return
    for key, value in mapping(obj, "data").items():
        try:
            base64.b64decode(str(value), validate=True)
        except (binascii.Error, ValueError):
            yield f"data.{key}", "is not base64"


def _service(obj: Object) -> Found:
    if obj.get("kind") != "Service":
        return
    ports = rows(obj, "spec", "ports")
    if len(ports) > 1 and any(not port.get("name") for port in ports):
        yield "spec.ports", "several ports need names"
    for index, name in duplicates([port.get("name") for port in ports]):
        yield f"spec.ports[{index}].name", f"repeats {name}"


def _claim(obj: Object) -> Found:
    if obj.get("kind") != "PersistentVolumeClaim":
        return
    if not rows(obj, "spec", "accessModes"):
        yield "spec.accessModes", "is missing"
    size = get(obj, "spec", "resources", "requests", "storage")
    if size is None:
        yield "spec.resources.requests.storage", "is missing"
    else:
        yield from _quantity("spec.resources.requests.storage", size)


def _quantity(path: str, value: str | float) -> Found:
    try:
        if quantity(value) <= 0:
            yield path, "must be more than nothing"
    except ValueError as error:
        yield path, str(error)


def _config_map(obj: Object) -> Found:
    if obj.get("kind") == "ConfigMap":
        for key in [*mapping(obj, "data"), *mapping(obj, "binaryData")]:
            if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
                yield f"data.{key}", "a key has letters, digits, dashes, dots and underscores only"


def _volumes(pod: Pod) -> Found:
    names = [volume.get("name") for volume in rows(pod.spec, "volumes")]
    for index, name in duplicates(names):
        yield f"{pod.path}.spec.volumes[{index}]", f"repeats volume {name}"
    for index, volume in enumerate(rows(pod.spec, "volumes")):
        sources = [key for key in volume if key != "name"]
        if len(sources) > 1:
            yield f"{pod.path}.spec.volumes[{index}]", f"has several sources: {', '.join(sources)}"
        if (size := get(volume, "emptyDir", "sizeLimit")) is not None:
            yield from _quantity(f"{pod.path}.spec.volumes[{index}].emptyDir.sizeLimit", size)
    if get(pod.owner, "kind") == "StatefulSet":
        names += [get(claim, "metadata", "name") for claim in rows(pod.owner, "spec", "volumeClaimTemplates")]
    for path, container in pod.containers():
        mounts = rows(container, "volumeMounts")
        for mount in mounts:
            if mount.get("name") not in names:
                yield f"{path}.volumeMounts", f"no volume {mount.get('name')} in the pod"
        for _, place in duplicates([mount.get("mountPath") for mount in mounts]):
            yield f"{path}.volumeMounts", f"mounts twice at {place}"


def _containers(pod: Pod) -> Found:
    if not rows(pod.spec, "containers"):
        yield f"{pod.path}.spec.containers", "is empty"
    everything = [*rows(pod.spec, "initContainers"), *rows(pod.spec, "containers")]
    for _, name in duplicates([container.get("name") for container in everything]):
        yield f"{pod.path}.spec.containers", f"repeats container {name}"
    for path, container in pod.containers():
        if not container.get("image"):
            yield f"{path}.image", "is missing"
        for _, name in duplicates([variable.get("name") for variable in rows(container, "env")]):
            yield f"{path}.env", f"sets {name} twice"
        for variable in rows(container, "env"):
            if "value" in variable and "valueFrom" in variable:
                yield f"{path}.env", f"{variable['name']} has a value and a source"
        named = [port["name"] for port in rows(container, "ports") if port.get("name")]
        for _, name in duplicates(named):
            yield f"{path}.ports", f"repeats port name {name}"


def _resources(path: str, container: Object) -> Found:
    numbers: dict[tuple[str, str], Decimal] = {}
    for where in ("limits", "requests"):
        for name, value in mapping(container, "resources", where).items():
            try:
                numbers[where, name] = quantity(value)
            except ValueError as error:
                yield f"{path}.resources.{where}.{name}", str(error)
    for (where, name), amount in numbers.items():
        limit = numbers.get(("limits", name))
        if "/" in name and amount != int(amount):
            yield f"{path}.resources.{where}.{name}", f"must be a whole number, not {amount}"
        if limit is not None and amount > limit:
            yield f"{path}.resources.{where}.{name}", f"{amount} is more than the limit {limit}"
        if "/" in name and amount != limit:
            yield f"{path}.resources.{where}.{name}", "an extended resource needs a limit equal to its request"


def _probes(path: str, container: Object) -> Found:
    named = [port.get("name") for port in rows(container, "ports")]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        for kind in ("httpGet", "tcpSocket"):
            port = get(container, probe, kind, "port")
            if isinstance(port, str) and port not in named:
                yield f"{path}.{probe}", f"no port {port} in the container"


def _expansions(path: str, container: Object) -> Found:
    """`$(NAME)` of no variable stays as it stands; a shell's own are in lower case as a rule."""
    variables = [variable.get("name") for variable in rows(container, "env")]
    for word in [*rows(container, "command"), *rows(container, "args")]:
        for name in EXPANSION.findall(str(word)):
            if name not in variables and not rows(container, "envFrom"):
                yield f"{path}.args", f"$({name}) is no variable of the container"
