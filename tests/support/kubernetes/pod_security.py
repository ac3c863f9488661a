"""The Pod Security Standard `restricted`, for every pod that an object leads to.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.kubernetes.objects import Object, Problem, get, mapping, rows
from tests.support.kubernetes.pods import Pod, pods

Found = Iterator[tuple[str, str]]

VOLUMES = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
SYSCTLS = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
)
LOCAL = (None, "", "127.0.0.1", "::1")
SELINUX = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")


def security_problems(obj: Object) -> list[Problem]:
    """What a namespace that enforces `restricted` refuses about the pods of an object."""
    found = []
    for pod in pods(obj):
        for path, reason in [*_pod(pod), *_containers(pod)]:
            made_up = "" if pod.rendered else "; give the operator a template"
            found.append(Problem(pod.title, path, f"Pod Security: {reason}{made_up}"))
    return found


def _pod(pod: Pod) -> Found:
    path = f"{pod.path}.spec"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(field):
            yield f"{path}.{field}", "shares a namespace of the host"
    for volume in rows(pod.spec, "volumes"):
        for source in volume:
            if source != "name" and source not in VOLUMES:
                yield f"{path}.volumes", f"volume {volume.get('name')} is of type {source}"
    for sysctl in rows(pod.spec, "securityContext", "sysctls"):
        if sysctl.get("name") not in SYSCTLS:
            yield f"{path}.securityContext.sysctls", f"{sysctl.get('name')} is not safe"
    yield from _both(f"{path}.securityContext", mapping(pod.spec, "securityContext"))


def _both(path: str, context: Object) -> Found:
    """What pods and containers may not say."""
    if context.get("runAsUser") == 0:
        yield f"{path}.runAsUser", "is root"
    if get(context, "seccompProfile", "type") == "Unconfined":
        yield f"{path}.seccompProfile", "is Unconfined"
    if get(context, "appArmorProfile", "type") == "Unconfined":
        yield f"{path}.appArmorProfile", "is Unconfined"
    if get(context, "seLinuxOptions", "type") not in SELINUX:
        yield f"{path}.seLinuxOptions.type", f"{context['seLinuxOptions']['type']} is not allowed"
    for field in ("user", "role"):
        if get(context, "seLinuxOptions", field):
            yield f"{path}.seLinuxOptions.{field}", "must not be set"
    if get(context, "windowsOptions", "hostProcess"):
        yield f"{path}.windowsOptions", "is a process of the host"


def _containers(pod: Pod) -> Found:
    whole = mapping(pod.spec, "securityContext")
    for path, container in pod.containers():
        context = mapping(container, "securityContext")
        place = f"{path}.securityContext"
        yield from _both(place, context)
        yield from _privileges(place, context)
        if not context.get("runAsNonRoot", whole.get("runAsNonRoot")):
            yield f"{place}.runAsNonRoot", "must be true here or for the pod"
        profile = get(context, "seccompProfile", "type") or get(whole, "seccompProfile", "type")
        if profile not in ("RuntimeDefault", "Localhost"):
            yield f"{place}.seccompProfile", "must be RuntimeDefault or Localhost here or for the pod"
        yield from _host(path, container)


def _privileges(place: str, context: Object) -> Found:
    if context.get("privileged"):
        yield f"{place}.privileged", "is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{place}.allowPrivilegeEscalation", "must be false"
    if "ALL" not in rows(context, "capabilities", "drop"):
        yield f"{place}.capabilities.drop", "must drop ALL"
    for capability in rows(context, "capabilities", "add"):
        if capability != "NET_BIND_SERVICE":
            yield f"{place}.capabilities.add", f"adds {capability}"
    if context.get("procMount") not in (None, "Default"):
        yield f"{place}.procMount", f"is {context['procMount']}"


def _host(path: str, container: Object) -> Found:
    for port in rows(container, "ports"):
        if port.get("hostPort"):
            yield f"{path}.ports", f"takes port {port['hostPort']} of the host"
    handlers = [get(container, probe) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += [get(container, "lifecycle", hook) for hook in ("postStart", "preStop")]
    for handler in handlers:
        for kind in ("httpGet", "tcpSocket"):
            if get(handler, kind, "host") not in LOCAL:
                yield f"{path}", f"a probe or hook asks another host, {handler[kind]['host']}"
