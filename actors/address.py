"""The Ray cluster that an address names, checked within seconds, with errors that say what to do.

Ray itself tries an address where nobody answers for 13 minutes, without a message.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import grpc

from s2l_ray import ray_bridge
from s2l_ray.errors import PlacementError
from s2l_ray.redaction import redact

ANSWER_S = 10.0
"""Bound on an answer; a cluster that is up answers sooner, also on a loaded machine."""
OTHERWISE = "Without it a private Ray is started on this machine"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that answers."""

    address: str
    """host:port of its GCS."""
    on_loopback: bool
    """It listens on this machine's loopback alone, where Ray does not look by itself."""
    asks_for_no_token: bool = False
    """Whoever reaches it can run code in it."""


def find_cluster(address: str | None, timeout_s: float = ANSWER_S) -> Cluster | None:
    """The cluster that a run is to join; None: there is none, it starts a private Ray.

    Args:
        address: cluster.address. None, or empty: RAY_ADDRESS (as `ray job submit` sets it), if that is set. `auto`:
            likewise, else the Ray that runs on this machine. `local`: a private Ray, whatever RAY_ADDRESS says.
        timeout_s: bound on each answer, if it is less than ANSWER_S.

    Raises:
        PlacementError: no usable cluster answers there within seconds.
    """
    text, key = (address or "").strip(), "cluster.address"
    if text in ("", "auto") and (other := os.environ.get("RAY_ADDRESS", "").strip()):
        text, key = other, "RAY_ADDRESS"
    if text in ("", "local"):
        return None
    given = f"{key}={redact(text)}"
    found = _on_this_machine(given) if text == "auto" else _host_and_port(text, given)
    return _usable(found, given, min(timeout_s, ANSWER_S))


def _on_this_machine(given: str) -> str:
    try:
        return ray_bridge.ray_on_this_machine()
    except ConnectionError as error:
        raise PlacementError(
            f"{given}: no Ray runs on this machine. Start one (`ray start --head`), or name a cluster as HOST:PORT. "
            f"{OTHERWISE}"
        ) from error


def _host_and_port(text: str, given: str) -> str:
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme in ("http", "https"):
        raise PlacementError(
            f"{given} is the address of Ray's jobs API. Submit the run to it (`ray job submit --address {redact(text)} "
            f"-- s2l train ...`); within the cluster the run gets its address by itself. {OTHERWISE}"
        )
    if scheme == "ray":
        raise PlacementError(
            f"{given} is the address of Ray's client server. A run's driver is a part of the cluster and does not work "
            f"through it: start it on a node of the cluster, or with `ray job submit`. {OTHERWISE}"
        )
    parsed = ray_bridge.host_and_port(text)
    if parsed is None or not parsed[0] or not _is_port(parsed[1]):
        raise PlacementError(
            f"{given} is not HOST:PORT, with a port of 1 to 65535 (Ray's own is 6379; an IPv6 host goes in brackets), "
            "nor `auto`, nor `local`"
        )
    return text


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 2**16


def _usable(address: str, given: str, timeout_s: float) -> Cluster:
    """Ask the cluster whether it is one that this process can join."""
    # Ray takes loopback for this machine's outward address, where a Ray that keeps to loopback does not listen.
    outward = ray_bridge.outward_address(address)
    on_loopback = ray_bridge.is_loopback(address) and not _listens(outward)
    where = address if on_loopback else outward
    with ray_bridge.gcs_channel(where) as channel:
        try:
            _check_versions(channel, given, timeout_s)
            raylet = _node_of_this_machine(channel, given, timeout_s)
            asks_for_no_token = ray_bridge.asks_for_no_token(where, timeout_s)
        except grpc.RpcError as error:
            raise PlacementError(f"{given}: {_reason(error, where)}") from error
    _check_raylet(raylet, given, timeout_s)
    return Cluster(where, on_loopback, asks_for_no_token)


def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _check_versions(channel: grpc.Channel, given: str, timeout_s: float) -> None:
    try:
        ray_bridge.check_versions(channel, timeout_s)
    except RuntimeError as error:
        raise PlacementError(
            f"{given}: {' '.join(str(error).split())} Install the cluster's versions here, or these there"
        ) from error


def _node_of_this_machine(channel: grpc.Channel, given: str, timeout_s: float) -> str:
    """Address of the raylet that a driver on this machine works through; Ray would wait a minute for one."""
    nodes = ray_bridge.nodes_alive(channel, timeout_s)
    here = sorted(nodes.keys() & ray_bridge.nodes_of_this_machine())
    if not here:
        raise PlacementError(
            f"{given}: the cluster answers, but none of its {len(nodes)} nodes is on this machine. Start the run on a "
            "node of the cluster, or with `ray job submit`, or make this machine one (`ray start --address`)"
        )
    return nodes[here[0]]


def _check_raylet(address: str, given: str, timeout_s: float) -> None:
    """Ray would wait for ever for a raylet that does not answer."""
    with ray_bridge.gcs_channel(address) as channel:
        try:
            ray_bridge.check_health(channel, timeout_s)
        except grpc.RpcError as error:
            raise PlacementError(
                f"{given}: the cluster answers, but its node on this machine ({address}) does not "
                f"({error.code().name}). Start that node again (`ray stop`, then `ray start --address`)"
            ) from error


def _reason(error: grpc.RpcError, address: str) -> str:
    """The message for a request to a cluster that failed."""
    if error.code() == grpc.StatusCode.UNAUTHENTICATED:
        return (
            "the cluster does not accept our token. Set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN, "
            "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's token"
        )
    if error.code() == grpc.StatusCode.UNIMPLEMENTED or "Failed parsing HTTP/2" in (error.details() or ""):
        return (
            f"something else than a Ray head listens at {address}. Give the port of its GCS (6379, unless `ray start "
            f"--port` said otherwise), not that of its dashboard. {OTHERWISE}"
        )
    details = (error.details() or error.code().name).rpartition("last error: ")[2]
    return f"no Ray cluster answers at {address} ({details}). Is it running, and can this machine reach it? {OTHERWISE}"
