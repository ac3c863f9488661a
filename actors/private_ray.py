"""Starting a private Ray on this machine: within the run's bound, and failing at once when a part of it ends.

Ray gives its parts bounds that fit an idle machine: 30 s for the node to be there, 5 s for a connection. On a few cores
that have other work they are missed, and what is left then is a traceback; Ray also waits for a part that has died.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import psutil
import ray

from actors.own_user import private_directory, require_token
from s2l_ray.errors import PlacementError
from s2l_ray.machine.processes import kill_marked, kill_orphans, mark
from s2l_ray.ray_bridge import (
    away_from_group_signals,
    has_own_cluster,
    log_directory,
    read_settings_again,
    waits_replaced,
)

LOOK_S = 0.2
"""Seconds between two checks that Ray is still there."""
CONNECTION_S = 60
"""Bound on a connection between two parts that are up."""


def start_private_ray(timeout_s: float, note: Callable[[str], None] = lambda message: None) -> None:
    """Start Ray on this machine and connect to it. It ends with this process, or with `end_private_ray`.

    It asks for a token, and other users can neither enter its directory nor connect to its sockets.

    Args:
        timeout_s: bound on the start.
        note: receives messages for the user.

    Raises:
        PlacementError: it is not there within `timeout_s`, or cannot start. Nothing of it is left then.
    """
    require_token(note)
    kill_orphans()  # of a killed driver: what Ray was just starting waits for minutes for a raylet that is gone
    sessions = private_directory()
    start = _Start(timeout_s)
    try:
        with start.watched(), away_from_group_signals():
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                _temp_dir=str(sessions),
            )
    except BaseException as error:  # anything from a full disk to a broken installation, in Ray's words
        end_private_ray()
        if not isinstance(error, Exception):
            raise
        reason = str(error) if isinstance(error, PlacementError) else f"{type(error).__name__}: {error}".rstrip(".")
        raise PlacementError(
            f"Ray did not start on this machine: {reason}. Its logs are in {log_directory(sessions)}"
        ) from error


def end_private_ray() -> None:
    """End the Ray that this process has started; nothing of it is left, whatever it was doing."""
    while_it_lives(ray.shutdown)
    kill_marked()


def while_it_lives(work: Callable[[], None]) -> None:
    """Do work that Ray has to answer. If it is this process's private Ray, the work is given up when Ray is gone.

    Ray would wait for an answer for ever. Ending a process group, as batch systems and `timeout` do, ends Ray at the
    same time as the driver.
    """
    if not has_own_cluster():
        work()
        return
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="ending-ray", daemon=True).start()  # a pool's would be waited for at exit
    while _lives():
        with contextlib.suppress(TimeoutError):
            done.result(LOOK_S)
            return


def _lives() -> bool:
    needed = {"gcs_server", "raylet"}
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                needed.discard(process.name())
    return not needed


@contextlib.contextmanager
def within(timeout_s: float) -> Iterator[None]:
    """Bound the start of Ray's parts in this block, on a machine that has other work.

    Raises:
        PlacementError: one takes longer, or ends.
    """
    with _Start(timeout_s).watched():
        yield


def _settings(timeout_s: float) -> dict[str, str]:
    """Ray's own settings, for a loaded machine. What the user has set stays."""
    seconds = math.ceil(max(timeout_s, CONNECTION_S))
    values = {
        # 15, with which eight busy processes beside it made half a second of a worker take 38 s on two cores.
        "RAY_worker_niceness": 0,
        "RAY_raylet_start_wait_time_s": 1,  # a single look: `_Start` looks again, as long as the run allows
        "RAY_agent_register_timeout_ms": 1000 * seconds,  # 30 s, then the raylet ends
        "RAY_worker_register_timeout_seconds": seconds,  # 60 s, then it is killed and started anew
        "RAY_raylet_client_num_connect_attempts": CONNECTION_S,  # one each second; 10, then the process ends
        "RAY_gcs_rpc_server_connect_timeout_s": CONNECTION_S,  # 5 s, then the process ends
        "RAY_health_check_failure_threshold": max(5, seconds // 10),  # of checks of up to 10 s, then the node is dead
    }
    return {name: str(value) for name, value in values.items() if name not in os.environ}


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """The environment of the processes that Ray starts in here, and this process's own settings of Ray."""
    os.environ.update(variables)
    read_settings_again()
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        read_settings_again()


class _Start:
    """One attempt: what it has started, and how long each of its waits may take."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._before = set(psutil.Process().children(recursive=True))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Ray waits for its parts as long as this attempt may take, and no longer than they live."""
        with waits_replaced(self._repeated), _environment(_settings(self._timeout_s) | mark()):
            yield

    def _processes(self) -> list[psutil.Process]:
        return [process for process in psutil.Process().children(recursive=True) if process not in self._before]

    def _repeated(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """Repeat `ask` until it answers. Ray's own code gives up with RuntimeError after a second or so."""

        def repeated(*args: Any, **kwargs: Any) -> Any:
            deadline = time.monotonic() + self._timeout_s
            while True:
                try:
                    return ask(*args, **kwargs)
                except RuntimeError as error:
                    if ended := self._ended():
                        raise PlacementError(f"{ended} has ended") from error
                    if time.monotonic() > deadline:
                        raise PlacementError(
                            f"it is not up after {self._timeout_s:.0f} s (cluster.start_timeout_s; raise it where the "
                            "machine is busy)"
                        ) from error

        return repeated

    def _ended(self) -> str | None:
        """The name of a part that the others need and that has ended, or None."""
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                if process.name() in ("gcs_server", "raylet") and process.status() == psutil.STATUS_ZOMBIE:
                    return f"its {process.name()}"
        return None
