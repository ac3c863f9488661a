"""Calls of libraries that may not return, such as requests to a server that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def bounded(work: Callable[[Callable[[], None]], T], silence_s: float) -> T:
    """Do some work in another thread, and give it up when it has shown no progress for too long.

    Work that is given up ends at its next sign of progress, if ever.

    Args:
        work: called with a function that it calls at each sign of progress.
        silence_s: longest time between two of these, and before the first, in seconds.

    Raises:
        TimeoutError: it was given up. What the work raises is raised here.
    """
    last = [time.monotonic()]
    given_up, done = threading.Event(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def progress() -> None:
        if given_up.is_set():
            raise TimeoutError
        last[0] = time.monotonic()

    def run() -> None:
        try:
            results.append(work(progress))
        except BaseException as error:
            errors.append(error)
        done.set()

    threading.Thread(target=run, name="bounded", daemon=True).start()
    try:
        while not done.wait(max(0.0, last[0] + silence_s - time.monotonic())):
            if time.monotonic() - last[0] >= silence_s:
                raise TimeoutError
    finally:
        given_up.set()
    if errors:
        raise errors[0]
    return results[0]
