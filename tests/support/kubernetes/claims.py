"""Claims that pods of ours can really mount, and write to as the user that they run as."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.kubernetes.objects import Object, Problem, get, mapping, problems, rows
from tests.support.kubernetes.pods import Pod, cluster_spec, pods

Found = Iterator[tuple[str, str]]


def ownership_problems(obj: Object) -> list[Problem]:
    """Pods whose user could not write to a fresh volume, which belongs to root."""
    reason = "is missing: a fresh volume belongs to root"
    rootly = [pod for pod in pods(obj) if _claims(pod) and get(pod.spec, "securityContext", "fsGroup") is None]
    return problems(obj, [(f"{pod.path}.spec.securityContext.fsGroup", reason) for pod in rootly])


def sharing_problems(objects: list[Object], nodes: int = 2) -> list[Problem]:
    """Claims of one node that pods of several nodes mount, or that an update mounts before it lets go.

    Args:
        objects: All of a build.
        nodes: Of the cluster; pods of a single one may share any claim.
    """
    modes = {
        (get(obj, "metadata", "namespace"), get(obj, "metadata", "name")): rows(obj, "spec", "accessModes")
        for obj in objects
        if obj.get("kind") == "PersistentVolumeClaim"
    }
    found = []
    for obj in objects:
        for path, claim, count in _mounted(obj):
            mode = modes.get((get(obj, "metadata", "namespace"), claim), ["ReadWriteMany"])
            if "ReadWriteMany" in mode or nodes == 1:
                continue
            if count > 1:
                found += problems(obj, [(path, f"{count} pods mount {claim}, which is {', '.join(mode)}")])
            if obj["kind"] == "Deployment" and get(obj, "spec", "strategy", "type") != "Recreate":
                reason = f"must be Recreate: a new pod waits for {claim}, which the old one has"
                found += problems(obj, [("spec.strategy.type", reason)])
    return found


def _claims(pod: Pod) -> list[str]:
    names = [get(volume, "persistentVolumeClaim", "claimName") for volume in rows(pod.spec, "volumes")]
    return [name for name in names if name]


def _mounted(obj: Object) -> Iterator[tuple[str, str, int]]:
    """Path, claim and number of pods of each claim that an object's pods mount."""
    groups = iter(rows((cluster_spec(obj) or ("", {}))[1], "workerGroupSpecs"))
    counts: dict[str, int] = {}
    for pod in pods(obj):
        group = next(groups) if pod.role == "worker" else {}
        copies = group.get("replicas", 0) if group else mapping(obj, "spec").get("replicas", 1)
        for claim in _claims(pod) if pod.role != "redis-cleanup" else []:
            counts[claim] = counts.get(claim, 0) + copies
    return (("spec", claim, count) for claim, count in counts.items())
