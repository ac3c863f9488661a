"""How far a download has got, and the bound on it, by way of the progress bars that huggingface_hub updates."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm

Progress = Callable[[int, int], None]
"""Told the megabytes that are here and those of all files."""


class FetchTimeoutError(Exception):
    """A download took longer than its bound."""


class Watch:
    """Follows one download.

    Args:
        total: bytes of all files.
        progress: told at most once a second.
        timeout_s: bound on the whole download in seconds. It is checked whenever bytes arrive; for how long none may
            arrive is huggingface_hub's own bound (HF_HUB_DOWNLOAD_TIMEOUT).
        alive: called whenever bytes arrive.
    """

    def __init__(self, total: int, progress: Progress, timeout_s: float, alive: Callable[[], None]) -> None:
        self._total, self._progress, self._alive = total, progress, alive
        self._deadline, self._told = time.monotonic() + timeout_s, 0.0
        self._lock = threading.Lock()  # files are downloaded in several threads

    def bar(self) -> type[tqdm]:
        """A class for the parameter `tqdm_class` of huggingface_hub."""
        arrived = self._arrived

        class Bar(tqdm):  # type: ignore[misc]  # it has no types
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self._in_bytes = kwargs.get("unit") == "B"
                self._so_far = kwargs.get("initial") or 0
                super().__init__(*args, **(kwargs | {"disable": True}))

            def update(self, n: float | None = 1) -> None:
                self._so_far += n or 0
                if self._in_bytes:
                    arrived(int(self._so_far))

        return Bar

    def _arrived(self, count: int) -> None:
        self._alive()
        now = time.monotonic()
        if now > self._deadline:
            raise FetchTimeoutError
        with self._lock:
            if now - self._told >= 1.0:
                self._told = now
                self._progress(count // 10**6, max(1, self._total // 10**6))
