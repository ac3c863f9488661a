"""Connecting a process to Ray: to a cluster, or to a private Ray on loopback that ends with the process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

import ray

from actors.address import find_cluster
from actors.private_ray import start_private_ray
from s2l_ray.config import ClusterConfig
from s2l_ray.errors import PlacementError
from s2l_ray.machine.temporary import use_short_tmpdir
from s2l_ray.ray_bridge import keeping_sigterm_handler, leave_out_death_reports, on_loopback


def connect(cluster: ClusterConfig | None = None, note: Callable[[str], None] = lambda message: None) -> bool:
    """Connect this process to Ray. Returns True if it started a private Ray, which then ends with this process.

    Args:
        cluster: which Ray (see `find_cluster`), and how long a private one may take to start. None: the defaults.
        note: receives messages for the user.

    Raises:
        PlacementError: no usable cluster answers within seconds, or a private Ray does not start.
    """
    if ray.is_initialized():
        return False
    leave_out_death_reports()
    own_handler = callable(signal.getsignal(signal.SIGTERM)) and threading.current_thread() is threading.main_thread()
    with keeping_sigterm_handler() if own_handler else contextlib.nullcontext():
        return _connect(cluster or ClusterConfig(), note)


def _connect(config: ClusterConfig, note: Callable[[str], None]) -> bool:
    cluster = find_cluster(config.address, config.start_timeout_s)
    if cluster is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        use_short_tmpdir(note)
        with on_loopback(), _quiet("ray"):  # it announces that token authentication is on, as it should be
            start_private_ray(config.start_timeout_s, note)
        return True
    try:
        with on_loopback() if cluster.on_loopback else contextlib.nullcontext():
            ray.init(address=cluster.address, log_to_driver=False)
    except Exception as error:  # the cluster answered, so Ray's own message is all there is
        ray.shutdown()
        raise PlacementError(
            f"could not join the Ray cluster at {cluster.address} (cluster.address, RAY_ADDRESS): {error}"
        ) from error
    if cluster.asks_for_no_token:
        note(
            f"the Ray cluster at {cluster.address} asks for no token: whoever reaches it can run code in it. Start it "
            "with RAY_AUTH_MODE=token"
        )
    return False


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
