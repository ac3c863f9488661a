"""What our own Ray clusters keep to, so that a run on them works: sizes, versions, storage, how a run ends."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import yaml

from tests.support.kubernetes.objects import Object, Problem, get, mapping, problems, quantity, rows
from tests.support.kubernetes.pods import Pod, cluster_spec, pods
from tests.support.kubernetes.ray_cluster_rules import environment, ray_groups

Found = Iterator[tuple[str, str]]

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"


def ray_pod_problems(obj: Object, ray_version: str) -> list[Problem]:
    """Departures of a RayCluster or RayJob from what a run of ours needs.

    Args:
        obj: Of any kind.
        ray_version: Ray's version in the lock files.
    """
    if not (cluster := cluster_spec(obj)):
        return []
    path, spec = cluster
    found = [*_version(path, spec, ray_version), *_token(path, spec), *_head(path, spec), *_shared_storage(obj)]
    for place, group in ray_groups(spec):
        found += _sizes(f"{path}.{place}", group)
    for pod in pods(obj):
        found += _requests(pod) if pod.role in ("head", "worker") else []
    return problems(obj, [*found, *_ending(obj, spec)])


def _version(path: str, spec: Object, ray_version: str) -> Found:
    if spec.get("rayVersion") != ray_version:
        yield f"{path}.rayVersion", f"is {spec.get('rayVersion')}; the lock has Ray {ray_version}"
    images = set()
    for place, group in ray_groups(spec):
        image = get(group, "template", "spec", "containers", 0, "image") or ""
        images.add(image)
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        if "@" not in image and tag in ("", "latest"):
            yield f"{path}.{place}.template.spec.containers[0].image", f"{image} is not pinned"
    if len(images) > 1:
        yield path, f"head and workers run different images: {', '.join(sorted(images))}"


def _token(path: str, spec: Object) -> Found:
    if get(spec, "authOptions", "mode") != "token" or not get(spec, "authOptions", "secretName"):
        # Without a name each retry of a RayJob gets a cluster, and so a token, of its own.
        yield f"{path}.authOptions", "needs mode: token and secretName"


def _head(path: str, spec: Object) -> Found:
    if get(spec, "headGroupSpec", "rayStartParams", "num-cpus") != "0":
        yield f"{path}.headGroupSpec.rayStartParams.num-cpus", 'must be "0": no actor belongs on the head'


def _sizes(path: str, group: Object) -> Found:
    """The object store must fit into /dev/shm, and that into the container's memory."""
    body = mapping(group, "template", "spec")
    container = get(body, "containers", 0)
    memory = get(container, "resources", "limits", "memory")
    store = get(group, "rayStartParams", "object-store-memory")
    if memory is None or store is None:
        missing = "a memory limit" if memory is None else "object-store-memory"
        yield path, f"has no {missing}, so Ray takes what it finds"
        return
    if not str(store).isdecimal():
        yield f"{path}.rayStartParams.object-store-memory", f"must be a number of bytes, not {store}"
        return
    shared = _shared_memory(body, container)
    if shared is None:  # the operator mounts one as large as the memory limit
        shared = quantity(memory)
    if shared < int(store):
        yield f"{path}.template.spec.volumes", f"/dev/shm of {shared} bytes is smaller than the object store, {store}"
    if shared > quantity(memory):
        yield f"{path}.template.spec.volumes", "/dev/shm is larger than the memory limit"
    if int(store) >= quantity(memory):
        yield f"{path}.rayStartParams.object-store-memory", "leaves no memory for processes"


def _shared_memory(body: Object, container: Object) -> Decimal | None:
    names = [mount["name"] for mount in rows(container, "volumeMounts") if mount.get("mountPath") == "/dev/shm"]
    for volume in rows(body, "volumes"):
        if volume.get("name") in names:
            directory = mapping(volume, "emptyDir")
            size = directory.get("sizeLimit")
            return quantity(size) if directory.get("medium") == "Memory" and size else Decimal(0)
    return None


def _requests(pod: Pod) -> Found:
    """A pod whose requests are its limits is the last to be evicted, and Ray counts the limits."""
    for path, container in pod.containers():
        limits, requests = mapping(container, "resources", "limits"), mapping(container, "resources", "requests")
        for name in ("cpu", "memory"):
            if name not in limits:
                yield f"{path}.resources.limits.{name}", "is missing"
        for name in sorted({*limits, *requests}):
            given, bound = requests.get(name), limits.get(name)
            if given is not None and (bound is None or quantity(given) != quantity(bound)):
                yield f"{path}.resources.requests.{name}", f"{given} is not the limit, {bound}"


def _shared_storage(obj: Object) -> Found:
    """Every rank writes its part of a checkpoint: all Ray pods mount the same claims at the same places."""
    mounts = {}
    for pod in pods(obj):
        if pod.role in ("head", "worker"):
            mounts[pod.path] = _claims(pod)
    if not any(mounts.values()):
        yield "spec", "no Ray pod mounts a claim for run directories"
    everything = {claim for claims in mounts.values() for claim in claims}
    for path, claims in mounts.items():
        for claim, place in sorted(everything - claims):
            yield f"{path}.spec.volumes", f"does not mount claim {claim} at {place}, as other Ray pods do"


def _claims(pod: Pod) -> set[tuple[str, str]]:
    names = {row["name"]: get(row, "persistentVolumeClaim", "claimName") for row in rows(pod.spec, "volumes")}
    mounts = rows(pod.spec, "containers", 0, "volumeMounts")
    return {(names[row["name"]], row["mountPath"]) for row in mounts if names.get(row["name"])}


def _ending(obj: Object, spec: Object) -> Found:
    """A run gets time to end: `ray job stop` waits for it, and the head's pod no shorter."""
    if obj["kind"] != "RayJob":
        return
    try:
        asked = yaml.safe_load(get(obj, "spec", "runtimeEnvYAML") or "{}")
    except yaml.YAMLError:  # refused by the operator's rules
        return
    head = mapping(spec, "headGroupSpec", "template", "spec")
    variables = mapping(asked, "env_vars") | environment(get(head, "containers", 0))
    wait = variables.get(STOP_WAIT)
    if wait is None:
        yield "spec.runtimeEnvYAML", f"env_vars has no {STOP_WAIT}: a stopped run is killed after 3 seconds"
    elif (head.get("terminationGracePeriodSeconds") or 30) < float(wait):
        yield "spec", f"the head's terminationGracePeriodSeconds is shorter than {STOP_WAIT}, {wait}"
    if not get(head, "containers", 0, "lifecycle", "preStop"):
        yield "spec", "the head has no preStop hook: a deleted pod takes the run with it"
    if get(obj, "spec", "submissionMode") != "HTTPMode":
        # The others follow the log, and fail the job when that stream ends early.
        yield "spec.submissionMode", "must be HTTPMode for runs of hours"
