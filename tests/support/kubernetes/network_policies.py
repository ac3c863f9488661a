"""Which pods may talk to which, given the NetworkPolicies of a namespace."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.kubernetes.objects import Object, Problem, get, mapping, problems, rows


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod, or with an address what lies outside of the cluster."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Its named ports."""
    address: str = ""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    """Beside the name, which every namespace is labelled with."""


def allows(objects: list[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the source may connect to a port of the target: its egress and the target's ingress allow it."""
    sends = _passes(_policies(objects), source, target, (target, port, protocol), "egress")
    return sends and accepts(objects, source, target, port, protocol)


def accepts(objects: list[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the target's ingress lets a connection of the source in."""
    return _passes(_policies(objects), target, source, (target, port, protocol), "ingress")


def _policies(objects: list[Object]) -> list[Object]:
    return [obj for obj in objects if obj.get("kind") == "NetworkPolicy"]


def _passes(policies: list[Object], pod: Peer, other: Peer, end: tuple[Peer, int, str], direction: str) -> bool:
    if pod.address:  # no policy binds what is outside of the cluster
        return True
    binding = [policy for policy in policies if _binds(policy, pod, direction)]
    if not binding:
        return True
    side = "to" if direction == "egress" else "from"
    for policy in binding:
        for rule in rows(policy, "spec", direction):
            peers = rows(rule, side)
            if (not peers or any(_is_peer(policy, peer, other) for peer in peers)) and _is_port(rule, *end):
                return True
    return False


def _binds(policy: Object, pod: Peer, direction: str) -> bool:
    kinds = rows(policy, "spec", "policyTypes") or ["Ingress", *(["Egress"] if "egress" in policy["spec"] else [])]
    here = (get(policy, "metadata", "namespace") or "") == pod.namespace
    return here and direction.capitalize() in kinds and selects(mapping(policy, "spec", "podSelector"), pod.labels)


def _is_peer(policy: Object, peer: Object, other: Peer) -> bool:
    if block := peer.get("ipBlock"):
        if not other.address:
            return False
        address = ipaddress.ip_address(other.address)
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(part) for part in block.get("except") or [])
    if other.address:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other.namespace, **other.namespace_labels}
        if not selects(peer["namespaceSelector"] or {}, labels):
            return False
    elif (get(policy, "metadata", "namespace") or "") != other.namespace:
        return False
    return selects(peer.get("podSelector") or {}, other.labels)


def _is_port(rule: Object, target: Peer, port: int, protocol: str) -> bool:
    ports = rows(rule, "ports")
    if not ports:
        return True
    for allowed in ports:
        if (allowed.get("protocol") or "TCP") != protocol:
            continue
        number: Any = allowed.get("port")
        number = target.ports.get(number) if isinstance(number, str) else number
        if "port" not in allowed or (number is not None and number <= port <= allowed.get("endPort", number)):
            return True
    return False


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects something with these labels; an empty one selects everything."""
    for key, value in mapping(selector, "matchLabels").items():
        if labels.get(key) != value:
            return False
    for expression in rows(selector, "matchExpressions"):
        key, operator, values = expression["key"], expression["operator"], rows(expression, "values")
        fits = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not fits[operator]:
            return False
    return True


def policy_rule_problems(obj: Object) -> list[Problem]:
    """What an API server refuses about a NetworkPolicy that fits its schema, and rules that say nothing."""
    found: list[tuple[str, str]] = []
    if obj.get("kind") == "NetworkPolicy":
        kinds = rows(obj, "spec", "policyTypes")
        found += [("spec.policyTypes", f"unknown type {kind}") for kind in kinds if kind not in ("Ingress", "Egress")]
        for direction, side in (("ingress", "from"), ("egress", "to")):
            if rows(obj, "spec", direction) and kinds and direction.capitalize() not in kinds:
                found.append((f"spec.{direction}", f"has no effect, since policyTypes lacks {direction.capitalize()}"))
            for index, rule in enumerate(rows(obj, "spec", direction)):
                found += [(f"spec.{direction}[{index}]", reason) for reason in _wrong_rule(rule, side)]
    return problems(obj, found)


def _wrong_rule(rule: Object, side: str) -> Iterator[str]:
    for peer in rows(rule, side):
        block = peer.get("ipBlock")
        if not peer or (block and len(peer) > 1):
            yield "a peer is an ipBlock or has selectors"
        try:
            whole = ipaddress.ip_network(block["cidr"]) if block else None
            parts = [ipaddress.ip_network(part) for part in rows(block, "except")]
        except ValueError as error:
            yield str(error)
            continue
        yield from (f"{part} is not within {whole}" for part in parts if not part.subnet_of(whole))  # type: ignore[arg-type]
    for port in rows(rule, "ports"):
        if "endPort" in port and not (isinstance(port.get("port"), int) and port["port"] <= port["endPort"]):
            yield "endPort needs a lower number as port"
