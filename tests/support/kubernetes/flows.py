"""The table of connections that a namespace of ours must allow, and of those that it must refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.support.kubernetes.network_policies import Peer, accepts, allows
from tests.support.kubernetes.objects import Object, Problem, rows
from tests.support.kubernetes.pods import Pod, autoscaling, cluster_spec, pods

OUTSIDE = Peer("the internet", address="203.0.113.10")
ELSEWHERE = Peer("a pod of another namespace", "elsewhere", {"app": "other"})
DNS = Peer("DNS", "kube-system", {"k8s-app": "kube-dns"}, {"dns": 53, "dns-tcp": 53})
METADATA = Peer("the machine's metadata", address="169.254.169.254")
"""Where cloud machines read their credentials."""
API_SERVER = Peer("the API server", address="10.96.0.1")

# Ray's own ports, what it, NCCL, gloo and vLLM choose among, and the ends of Linux's range.
RAY_PORTS = (6379, 8080, 8265, 10001, 10002, 19999, 29500, 32768, 45000, 52365, 60999)
DASHBOARD, CLIENT, GCS = 8265, 10001, 6379


class Flow(NamedTuple):
    """A connection and whether it is wanted."""

    source: Peer
    target: Peer
    port: int
    wanted: bool
    protocol: str = "TCP"


class Cast(NamedTuple):
    """The pods of a build by what they do, as ends of connections."""

    heads: list[Peer]
    workers: list[Peer]
    submitters: list[Peer]
    cleaners: list[Peer]
    """Jobs that empty Redis after a cluster."""
    tracking: list[Peer]
    databases: list[Peer]
    redis: list[Peer]
    staging: list[Peer]
    """Jobs that fetch models and data."""

    @property
    def ray(self) -> list[Peer]:
        return [*self.heads, *self.workers]


def cast(everything: list[Pod]) -> Cast:
    """Who is who: Ray's pods by their role, services by their image, the rest of the Jobs fetch."""

    def role(name: str) -> list[Peer]:
        return [peer(pod) for pod in everything if pod.role == name]

    def service(name: str) -> list[Peer]:
        return [peer(pod) for pod in everything if name in _image(pod) and not pod.role and not _is_job(pod)]

    ray = [role(name) for name in ("head", "worker", "submitter", "redis-cleanup")]
    services = [service(name) for name in ("mlflow", "postgres", "redis")]
    return Cast(*ray, *services, [peer(pod) for pod in everything if _is_job(pod)])


def _image(pod: Pod) -> str:
    return " ".join(container.get("image", "").rsplit("/", 1)[-1] for container in rows(pod.spec, "containers"))


def _is_job(pod: Pod) -> bool:
    return pod.owner.get("kind") == "Job"


def peer(pod: Pod) -> Peer:
    """A pod as an end of connections."""
    ports = [port for _, container in pod.containers() for port in rows(container, "ports")]
    numbers = {port.get("name") or str(port["containerPort"]): port["containerPort"] for port in ports}
    return Peer(pod.title, pod.namespace, pod.labels, numbers)


def flows(objects: list[Object], operator_namespaces: tuple[str, ...]) -> Iterator[Flow]:
    """The table for the pods of a build."""
    everything = [pod for obj in objects for pod in pods(obj)]
    everybody = cast(everything)
    for obj in objects:
        if cluster := cluster_spec(obj):
            members = cast([pod for pod in everything if pod.owner is obj])
            yield from _ray(members, operator_namespaces, autoscaling(cluster[1]))
    yield from _services(everybody)
    yield from _outward(everybody)
    for pod in everything:
        yield from _strangers(pod)


def _ray(members: Cast, operator_namespaces: tuple[str, ...], scales: bool) -> Iterator[Flow]:
    for source in members.ray:
        for target in members.ray:
            yield from (Flow(source, target, port, wanted=True) for port in RAY_PORTS)
    # As the operator's Helm chart labels its pod.
    labels = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"}
    operators = [Peer(f"the operator in {namespace}", namespace, labels) for namespace in operator_namespaces]
    for head in members.heads:
        yield from (Flow(source, head, DASHBOARD, wanted=True) for source in [*operators, *members.submitters])
        yield from (Flow(head, API_SERVER, port, wanted=scales) for port in (443, 6443))


def _services(who: Cast) -> Iterator[Flow]:
    for sources, targets, wanted in (
        (who.ray, who.tracking, True),
        (who.tracking, who.databases, True),
        ([*who.heads, *who.cleaners], who.redis, True),
        (who.ray, who.databases, False),
        (who.workers, who.redis, False),
        (who.tracking, who.redis, False),
        (who.staging, [*who.tracking, *who.databases, *who.redis], False),
    ):
        for source in sources:
            for target in targets:
                yield from (Flow(source, target, port, wanted) for port in target.ports.values())
    for source in [*who.tracking, *who.databases, *who.redis, *who.staging]:
        for head in who.heads:
            yield from (Flow(source, head, port, wanted=False) for port in (DASHBOARD, CLIENT, GCS))


def _outward(who: Cast) -> Iterator[Flow]:
    for source in [*who.ray, *who.staging, *who.tracking]:
        yield from (Flow(source, DNS, 53, wanted=True, protocol=protocol) for protocol in ("UDP", "TCP"))
    for source in who.staging:
        yield Flow(source, OUTSIDE, 443, wanted=True)
        yield Flow(source, OUTSIDE, 80, wanted=False)
        yield from (Flow(source, target, 443, wanted=False) for target in (API_SERVER, METADATA))
    for source in [*who.ray, *who.submitters, *who.cleaners, *who.tracking, *who.databases, *who.redis]:
        yield Flow(source, OUTSIDE, 443, wanted=False)


def _strangers(pod: Pod) -> Iterator[Flow]:
    target = peer(pod)
    stranger = Peer("an unlabelled pod beside it", pod.namespace)
    ports = {*target.ports.values(), *((DASHBOARD, CLIENT, GCS, 52365) if pod.role == "head" else ())}
    for port in sorted(ports):
        yield from (Flow(source, target, port, wanted=False) for source in (OUTSIDE, ELSEWHERE, stranger))


def flow_problems(
    objects: list[Object], operator_namespaces: tuple[str, ...], declared: tuple[tuple[str, str, int], ...] = ()
) -> list[Problem]:
    """Connections that the policies of a build allow against the table, or refuse against it.

    A pod must refuse what is unwanted by itself, whatever the other side may send.

    Args:
        objects: All of the build.
        operator_namespaces: Where the Ray operator may run.
        declared: Part of the source's name, of the target's and the port of connections that may be either way.
    """
    found = []
    for source, target, port, wanted, protocol in flows(objects, operator_namespaces):
        if any(one in source.name and two in target.name and number == port for one, two, number in declared):
            continue
        judged = allows if wanted or target.address else accepts
        if judged(objects, source, target, port, protocol) != wanted:
            verb = "is refused" if wanted else "is allowed"
            reason = f"{source.name} to {target.name}, port {port} {protocol}, {verb}"
            found.append(Problem("NetworkPolicy", "spec", reason))
    return list(dict.fromkeys(found))


def unbound_problems(objects: list[Object]) -> list[Problem]:
    """Pods that no policy binds for a direction: whatever is not named must be refused."""
    found = []
    for pod in [pod for obj in objects for pod in pods(obj)]:
        if allows(objects, OUTSIDE, peer(pod), 9):
            found.append(Problem(pod.title, pod.path, "no NetworkPolicy binds what comes in"))
        if allows(objects, peer(pod), OUTSIDE, 9):
            found.append(Problem(pod.title, pod.path, "no NetworkPolicy binds what goes out"))
    return found
