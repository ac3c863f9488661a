"""What objects name must be there: in the same build, or among what the user makes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.kubernetes.kueue_rules import PRIORITY, QUEUE
from tests.support.kubernetes.network_policies import selects
from tests.support.kubernetes.objects import Object, Problem, get, mapping, problems, rows, title
from tests.support.kubernetes.pods import Pod, autoscaling, cluster_spec, pods

# Path, kind, name and, where one is named, key.
Reference = tuple[str, str, str, str | None]

BUILT_IN = {
    "ConfigMap/kube-root-ca.crt",
    "PriorityClass/system-cluster-critical",
    "PriorityClass/system-node-critical",
    "ServiceAccount/default",
}
CLUSTER_WIDE = {
    "ClusterQueue",
    "ClusterRole",
    "Namespace",
    "PriorityClass",
    "ResourceFlavor",
    "RuntimeClass",
    "StorageClass",
    "Topology",
    "WorkloadPriorityClass",
}
URL = re.compile(r"\b(?:https?|rediss?|postgresql(?:\+\w+)?)://(?:[^@/\s]*@)?([a-z0-9][-a-z0-9.]*)(?::(\d+))?")


def reference_problems(objects: list[Object], given: frozenset[str] = frozenset()) -> list[Problem]:
    """Names of what is not there.

    Args:
        objects: All of a build.
        given: What the user makes: `Kind/name`.
    """
    present = {_place(obj): obj for obj in objects}
    found = []
    for obj in objects:
        for path, kind, name, key in references(obj):
            if f"{kind}/{name}" in BUILT_IN | given:
                continue
            target = present.get((kind, name, "" if kind in CLUSTER_WIDE else _namespace(obj)))
            if target is None:
                found += problems(obj, [(path, f"{kind} {name} is not there")])
            elif key is not None and not _has_key(target, key):
                found += problems(obj, [(path, f"{kind} {name} has no key {key}")])
        found += problems(obj, _hosts(obj, objects, given))
    return [*found, *_services(objects), *_twice(objects)]


def _namespace(obj: Object) -> str:
    return get(obj, "metadata", "namespace") or ""


def _place(obj: Object) -> tuple[str, str, str]:
    kind = obj.get("kind", "")
    return kind, get(obj, "metadata", "name") or "", "" if kind in CLUSTER_WIDE else _namespace(obj)


def _has_key(target: Object, key: str) -> bool:
    return any(key in mapping(target, part) for part in ("data", "stringData", "binaryData"))


def _twice(objects: list[Object]) -> list[Problem]:
    seen, found = set(), []
    for obj in objects:
        place = obj.get("apiVersion"), *_place(obj)
        if place in seen:
            found.append(Problem(title(obj), "metadata.name", "is in the build twice"))
        seen.add(place)
    return found


def references(obj: Object) -> Iterator[Reference]:
    """What an object names."""
    if (namespace := _namespace(obj)) and namespace != "default":
        yield "metadata.namespace", "Namespace", namespace, None
    for pod in pods(obj):
        yield from _of_pod(pod)
    if obj.get("kind") == "StatefulSet" and (name := get(obj, "spec", "serviceName")):
        yield "spec.serviceName", "Service", name, None
    yield from _of_queues(obj)
    if obj.get("kind") in ("RoleBinding", "ClusterRoleBinding"):
        yield "roleRef", get(obj, "roleRef", "kind"), get(obj, "roleRef", "name"), None
        for index, subject in enumerate(rows(obj, "subjects")):
            if subject["kind"] == "ServiceAccount" and subject.get("namespace") in (None, namespace):
                yield f"subjects[{index}]", "ServiceAccount", subject["name"], None
    for path, claim in _claims(obj):
        if name := claim.get("storageClassName"):
            yield f"{path}.storageClassName", "StorageClass", name, None


def _claims(obj: Object) -> Iterator[tuple[str, Object]]:
    if obj.get("kind") == "PersistentVolumeClaim":
        yield "spec", mapping(obj, "spec")
    for index, claim in enumerate(rows(obj, "spec", "volumeClaimTemplates")):
        yield f"spec.volumeClaimTemplates[{index}].spec", mapping(claim, "spec")


def _of_queues(obj: Object) -> Iterator[Reference]:
    labels = mapping(obj, "metadata", "labels")
    if QUEUE in labels:
        yield f"metadata.labels.{QUEUE}", "LocalQueue", labels[QUEUE], None
    if PRIORITY in labels:
        yield f"metadata.labels.{PRIORITY}", "WorkloadPriorityClass", labels[PRIORITY], None
    if obj.get("kind") == "LocalQueue":
        yield "spec.clusterQueue", "ClusterQueue", get(obj, "spec", "clusterQueue"), None
    if obj.get("kind") == "ClusterQueue":
        for group in rows(obj, "spec", "resourceGroups"):
            for flavor in rows(group, "flavors"):
                yield "spec.resourceGroups", "ResourceFlavor", flavor["name"], None
    if obj.get("kind") == "ResourceFlavor" and (name := get(obj, "spec", "topologyName")):
        yield "spec.topologyName", "Topology", name, None


def _of_pod(pod: Pod) -> Iterator[Reference]:
    path = f"{pod.path}.spec"
    for field, kind in (("priorityClassName", "PriorityClass"), ("runtimeClassName", "RuntimeClass")):
        if name := pod.spec.get(field):
            yield f"{path}.{field}", kind, name, None
    spec = (cluster_spec(pod.owner) or ("", {}))[1]
    made = pod.role == "head" and autoscaling(spec)  # the operator makes that account where it is not named
    account = pod.spec.get("serviceAccountName")
    if account and not (made and account == get(pod.owner, "metadata", "name")):
        yield f"{path}.serviceAccountName", "ServiceAccount", account, None
    for secret in rows(pod.spec, "imagePullSecrets"):
        yield f"{path}.imagePullSecrets", "Secret", secret["name"], None
    for volume in rows(pod.spec, "volumes"):
        yield from _of_volume(f"{path}.volumes[{volume.get('name')}]", volume)
    for place, container in pod.containers():
        yield from _of_container(place, container)


def _of_volume(path: str, volume: Object) -> Iterator[Reference]:
    if name := get(volume, "persistentVolumeClaim", "claimName"):
        yield path, "PersistentVolumeClaim", name, None
    sources = [*rows(volume, "projected", "sources"), volume]
    for source in sources:
        for field, kind, key in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
            body = source.get(field)
            name = body and (body.get(key) or body.get("name"))
            if not name or body.get("optional"):
                continue
            yield path, kind, name, None
            for item in rows(body, "items"):
                yield path, kind, name, item["key"]


def _of_container(path: str, container: Object) -> Iterator[Reference]:
    for variable in rows(container, "env"):
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            source = get(variable, "valueFrom", field)
            if source and not source.get("optional"):
                yield f"{path}.env[{variable['name']}]", kind, source["name"], source["key"]
    for source in rows(container, "envFrom"):
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if (body := source.get(field)) and not body.get("optional"):
                yield f"{path}.envFrom", kind, body["name"], None


def _hosts(obj: Object, objects: list[Object], given: frozenset[str]) -> Iterator[tuple[str, str]]:
    """URLs of services: host and port of those within the cluster, whose names have no dot or end in `.svc`."""
    texts = [("spec.gcsFaultToleranceOptions.redisAddress", _redis(obj))]
    for pod in pods(obj):
        for path, container in pod.containers():
            texts += [(f"{path}.env[{row['name']}]", str(row.get("value", ""))) for row in rows(container, "env")]
            words = [*rows(container, "command"), *rows(container, "args")]
            texts += [(f"{path}.command", str(word)) for word in words]
    for key, value in [*mapping(obj, "data").items()] if obj.get("kind") == "ConfigMap" else []:
        texts.append((f"data.{key}", str(value)))
    for path, text in texts:
        for host, port in URL.findall(text):
            yield from ((path, reason) for reason in _host(host, port, _namespace(obj), objects, given))


def _redis(obj: Object) -> str:
    address = get((cluster_spec(obj) or ("", {}))[1], "gcsFaultToleranceOptions", "redisAddress") or ""
    return address if "://" in address or not address else f"redis://{address}"


def _host(host: str, port: str, namespace: str, objects: list[Object], given: frozenset[str]) -> Iterator[str]:
    name, *rest = host.split(".")
    if name in ("localhost", "127") or (rest and "svc" not in rest) or f"Service/{name}" in given:
        return
    where = rest[0] if rest else namespace
    for obj in objects:
        if _place(obj) == ("Service", name, where):
            if port and int(port) not in [row["port"] for row in rows(obj, "spec", "ports")]:
                yield f"Service {name} has no port {port}"
            return
    yield f"Service {name} is not there"


def _services(objects: list[Object]) -> list[Problem]:
    """Services that select no pod of the build, or lead to a port that no container of theirs has."""
    found = []
    everything = [pod for obj in objects for pod in pods(obj)]
    for obj in objects:
        selector = mapping(obj, "spec", "selector")
        if obj.get("kind") != "Service" or not selector:
            continue
        chosen = [
            pod
            for pod in everything
            if pod.namespace == _namespace(obj) and selects({"matchLabels": selector}, pod.labels)
        ]
        if not chosen:
            found += problems(obj, [("spec.selector", "selects no pod of the build")])
        for port in rows(obj, "spec", "ports") if chosen else []:
            target = port.get("targetPort", port.get("port"))
            if not all(_listens(pod, target) for pod in chosen):
                found += problems(obj, [("spec.ports", f"no container of its pods has port {target}")])
    return found


def _listens(pod: Pod, target: int | str) -> bool:
    ports = [port for _, container in pod.containers() for port in rows(container, "ports")]
    return any(target in (port.get("name"), port.get("containerPort")) for port in ports)


def policy_problems(objects: list[Object]) -> list[Problem]:
    """NetworkPolicies and disruption budgets that select no pod of the build."""
    everything = [pod for obj in objects for pod in pods(obj)]
    found = []
    for obj in objects:
        field = {"NetworkPolicy": "podSelector", "PodDisruptionBudget": "selector"}.get(obj.get("kind", ""))
        if field is None:
            continue
        selector = mapping(obj, "spec", field)
        if not any(pod.namespace == _namespace(obj) and selects(selector, pod.labels) for pod in everything):
            found += problems(obj, [(f"spec.{field}", "selects no pod of the build")])
    return found
