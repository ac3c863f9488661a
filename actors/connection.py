"""Connecting a process to Ray: to a cluster, or to a private Ray on loopback that ends with the process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

import ray

from s2l_ray.errors import PlacementError


def connect(address: str | None) -> bool:
    """Connect this process to Ray. Returns True if it started a private Ray, which then ends with this process.

    Args:
        address: None takes RAY_ADDRESS (as `ray job submit` sets it), or starts Ray on this machine, on loopback only.

    Raises:
        PlacementError: no cluster answers.
    """
    if ray.is_initialized():
        return False
    with _own_termination():
        return _connect(address)


def _connect(address: str | None) -> bool:
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with on_loopback(), _quiet("ray"):  # it announces that token authentication is on, as it should be
            ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
        return True
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as error:
        raise PlacementError(
            f"no Ray cluster answers at {address} (cluster.address, RAY_ADDRESS): {error}. Where a cluster asks for a "
            "token, RAY_AUTH_MODE=token and the token must be set here too"
        ) from error
    return False


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Ray started in here listens on 127.0.0.1 only.

    Asked for 127.0.0.1, Ray takes this machine's outward address instead, and listens on every interface, unless it is
    built for a single machine: that is what this constant says. With it, its servers bind to loopback.
    """
    constants = ray._private.ray_constants
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _own_termination() -> Iterator[None]:
    """What the program does when it is terminated stays, meanwhile too, where Ray would put two handlers in its place.

    One in Python, which exits with status 15, and one in C++, which aborts within 3 s.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    utils = ray._private.utils
    before, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
