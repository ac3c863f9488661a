"""The pods that objects lead to, with what the Ray operator adds to them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.kubernetes.objects import Object, get, mapping, rows, title

TEMPLATES: dict[str, tuple[str, ...]] = {
    "DaemonSet": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "Job": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}
RAY_ROLES = ("head", "worker")


@dataclass(frozen=True)
class Pod:
    """A pod, or one of the equal pods of a group."""

    owner: Object
    path: str
    """Of its template in the owner."""
    role: str
    """`head`, `worker`, `submitter` or `redis-cleanup`; empty outside Ray."""
    labels: dict[str, str]
    spec: Object
    rendered: bool = True
    """Whether the template stands in the owner; else the operator makes it up."""

    @property
    def namespace(self) -> str:
        return get(self.owner, "metadata", "namespace") or ""

    @property
    def title(self) -> str:
        return f"{title(self.owner)} ({self.role})" if self.role else title(self.owner)

    def containers(self) -> Iterator[tuple[str, Object]]:
        """Path and body of each container, init containers first; named, since generated ones have no index."""
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for container in rows(self.spec, kind):
                yield f"{self.path}.spec.{kind}[{container.get('name')}]", container


def cluster_spec(obj: Object) -> tuple[str, Object] | None:
    """Path and body of the Ray cluster that an object describes."""
    if obj.get("kind") == "RayCluster":
        return "spec", mapping(obj, "spec")
    if obj.get("kind") == "RayJob" and get(obj, "spec", "rayClusterSpec"):
        return "spec.rayClusterSpec", obj["spec"]["rayClusterSpec"]
    return None


def autoscaling(spec: Object) -> bool:
    return bool(spec.get("enableInTreeAutoscaling"))


def token_authentication(spec: Object) -> bool:
    return bool(get(spec, "authOptions", "mode") == "token")


def pods(obj: Object) -> list[Pod]:
    """The pods that an object leads to: one for each group of equal ones."""
    if (keys := TEMPLATES.get(obj.get("kind", ""))) is not None:
        template = get(obj, *keys) or {}
        labels = mapping(template, "metadata", "labels")
        return [Pod(obj, ".".join(keys) or "", "", labels, mapping(template, "spec"))]
    found: list[Pod] = []
    if cluster := cluster_spec(obj):
        found += list(_ray_pods(obj, *cluster))
    if obj.get("kind") == "RayJob" and get(obj, "spec", "submissionMode") in (None, "K8sJobMode"):
        found.append(_submitter(obj))
    return found


def _ray_pods(obj: Object, path: str, spec: Object) -> Iterator[Pod]:
    name = get(obj, "metadata", "name") or f"{get(obj, 'metadata', 'generateName')}xxxxx"
    # A RayJob's cluster gets a suffix of five letters that nobody knows before.
    cluster = name if obj["kind"] == "RayCluster" else f"{name}-xxxxx"
    head = mapping(spec, "headGroupSpec", "template")
    head_spec = _head(obj, spec, copy.deepcopy(mapping(head, "spec")))
    yield Pod(obj, f"{path}.headGroupSpec.template", "head", _labels(head, cluster, "head", "headgroup"), head_spec)
    if get(spec, "gcsFaultToleranceOptions", "redisAddress"):
        cleanup = copy.deepcopy(head_spec)
        cleanup |= {"containers": rows(cleanup, "containers")[:1], "restartPolicy": "Never"}
        labels = _labels(head, cluster, "redis-cleanup", "headgroup")
        yield Pod(obj, f"{path}.headGroupSpec.template", "redis-cleanup", labels, cleanup, rendered=False)
    for index, group in enumerate(rows(spec, "workerGroupSpecs")):
        template = mapping(group, "template")
        labels = _labels(template, cluster, "worker", group.get("groupName", ""))
        body = _worker(spec, copy.deepcopy(mapping(template, "spec")))
        yield Pod(obj, f"{path}.workerGroupSpecs[{index}].template", "worker", labels, body)


def _labels(template: Object, cluster: str, role: str, group: str) -> dict[str, str]:
    own = {"ray.io/cluster": cluster, "ray.io/node-type": role, "ray.io/group": group}
    defaults = {
        "ray.io/is-ray-node": "yes",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/identifier": f"{cluster}-{role}",
    }
    return defaults | mapping(template, "metadata", "labels") | own


def _token(spec: Object) -> list[Object]:
    """What token authentication adds to a container's environment."""
    secret = get(spec, "authOptions", "secretName")
    if not token_authentication(spec) or not secret:
        return []
    return [{"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "auth_token"}}}]


def _head(obj: Object, spec: Object, body: Object) -> Object:
    containers = body.setdefault("containers", [])
    if not containers:
        return body
    ray = containers[0]
    if redis := get(spec, "gcsFaultToleranceOptions"):
        for key, variable in (("redisPassword", "REDIS_PASSWORD"), ("redisUsername", "REDIS_USERNAME")):
            if value := redis.get(key):
                ray.setdefault("env", []).append({"name": variable, **value})
    if get(obj, "spec", "submissionMode") == "SidecarMode":
        containers.append({"name": "ray-job-submitter", "image": ray.get("image"), "resources": _resources("1", "1Gi")})
        body["restartPolicy"] = "Never"
    if autoscaling(spec):
        containers.append(_autoscaler(spec, ray))
        body.setdefault("serviceAccountName", "")
    ray.setdefault("env", []).extend(_token(spec))
    return body


def _autoscaler(spec: Object, ray: Object) -> Object:
    options = mapping(spec, "autoscalerOptions")
    made = {"name": "autoscaler", "image": ray.get("image"), "resources": _resources("500m", "512Mi")}
    taken = ("image", "resources", "securityContext", "volumeMounts", "envFrom", "imagePullPolicy")
    made |= {key: options[key] for key in taken if key in options}
    return made | {"env": [*_token(spec), *rows(options, "env")]}


def _worker(spec: Object, body: Object) -> Object:
    if not rows(body, "containers"):
        return body
    ray = body["containers"][0]
    ray.setdefault("env", []).extend(_token(spec))
    taken = ("image", "imagePullPolicy", "securityContext", "env", "volumeMounts")
    waiting: dict[str, Any] = {"name": "wait-gcs-ready", "resources": _resources("200m", "256Mi")}
    waiting |= {key: copy.deepcopy(ray[key]) for key in taken if key in ray}
    body["initContainers"] = [*rows(body, "initContainers"), waiting]
    return body


def _submitter(obj: Object) -> Pod:
    labels = {
        "ray.io/originated-from-cr-name": get(obj, "metadata", "name") or "",
        "ray.io/originated-from-crd": "RayJob",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    given = get(obj, "spec", "submitterPodTemplate")
    if given:
        own = mapping(given, "metadata", "labels")
        return Pod(obj, "spec.submitterPodTemplate", "submitter", own | labels, mapping(given, "spec"))
    spec = mapping(obj, "spec", "rayClusterSpec")
    # With a clusterSelector it is the image of a cluster that is there.
    image = get(spec, "headGroupSpec", "template", "spec", "containers", 0, "image") or "selected"
    container = {"name": "ray-job-submitter", "image": image, "env": _token(spec), "resources": _resources("1", "1Gi")}
    body = {"containers": [container], "restartPolicy": "Never"}
    return Pod(obj, "spec.submitterPodTemplate", "submitter", labels, body, rendered=False)


def _resources(cpu: str, memory: str) -> Object:
    return {"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}}
