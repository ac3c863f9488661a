"""Bounds on NCCL, for both ends of an nccl broadcast.

NCCL itself waits for ever: for a member that died before it came, and in a broadcast whose peer died. So the members
first meet in a store, within a bound, and take the communicator's id from there (a new id for every group, so a stale
member cannot join); and a broadcast that takes too long is aborted from another thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from s2l_ray.weights.rendezvous import PrefixStore, Store

T = TypeVar("T")


def agree_on_id(store: Store, group: str, rank: int, size: int, mint: Callable[[], bytes] | None = None) -> bytes:
    """Wait until all `size` members of `group` are here; returns the id that member 0 minted.

    Raises:
        torch.distributed.DistStoreError: not all came within the store's timeout.
    """
    store = PrefixStore(group, store)
    if mint is not None:
        store.set("id", mint())  # type: ignore[arg-type]  # torch's stubs know str only
    store.set(f"here/{rank}", "")
    store.wait([f"here/{member}" for member in range(size)])
    return store.get("id")


def in_time(call: Callable[[], T], timeout_s: float, undo: Callable[[T], None]) -> T:
    """`call()`, in a thread that is given up after `timeout_s` seconds.

    Args:
        undo: is given what the call returns after it was given up.

    Raises:
        TimeoutError: it is still running; it cannot be stopped, only left.
    """
    outcome: dict[str, Any] = {}
    given_up, settled = False, threading.Lock()

    def run() -> None:
        try:
            made = call()
        except BaseException as error:
            outcome["error"] = error
            return
        with settled:
            if not given_up:
                outcome["result"] = made
                return
        undo(made)

    thread = threading.Thread(target=run, name="nccl-init", daemon=True)
    thread.start()
    thread.join(timeout_s)
    with settled:
        given_up = "result" not in outcome
    if "error" in outcome:
        raise outcome["error"]
    if given_up:
        raise TimeoutError(f"the communicator did not form within {timeout_s:.0f} s")
    result: T = outcome["result"]
    return result


@contextmanager
def abort_after(timeout_s: float, abort: Callable[[], None]) -> Iterator[None]:
    """Call `abort` (which ends the communicator and every kernel that waits in it) if the body takes too long.

    Raises:
        TimeoutError: it did, whatever the body made of it: after an abort its buffers hold anything.
    """
    late = threading.Event()

    def run_out() -> None:
        late.set()
        abort()

    timer = threading.Timer(timeout_s, run_out)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(f"not all members took part within {timeout_s:.0f} s; the communicator was aborted")
