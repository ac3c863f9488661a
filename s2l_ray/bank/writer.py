"""Rollouts on their way into shards: gathered until a shard is full or old enough, then written whole."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

from s2l_ray.bank.shard import Entry, encode
from s2l_ray.bank.storage import Storage
from s2l_ray.errors import BankError

SHARD_BYTES = 64 * 2**20
"""Of rollouts in memory; the file is about a quarter of it."""
SHARD_AGE_S = 60.0
"""How old a shard's first rollout may become in memory, which is what a kill can lose."""


class Writer:
    """Appends shards. Their names are unique, so that several writers may record side by side. For several threads.

    Args:
        storage, folder: where the shards go.
        on_written: told the name of every shard, from whatever thread wrote it.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        on_written: Callable[[str], None],
        shard_bytes: int = SHARD_BYTES,
        shard_age_s: float = SHARD_AGE_S,
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._on_written = on_written
        self._shard_bytes = shard_bytes
        self._shard_age_s = shard_age_s
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._bytes = 0
        self._timer: threading.Timer | None = None
        self._overdue = False

    def add(self, entries: list[Entry]) -> None:
        """Take rollouts in; write those that are held if they are enough, else within the shard's age.

        Raises:
            BankError: they cannot be written, or could not when they were old enough. They are kept, and tried again
                with the next.
        """
        with self._lock:
            self._entries += entries
            self._bytes += sum(entry.nbytes for entry in entries)
            if self._overdue or self._bytes >= self._shard_bytes:
                self._write()
            elif self._timer is None:
                self._timer = threading.Timer(self._shard_age_s, self._write_old)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what is held.

        Raises:
            BankError: it cannot be written. It is kept.
        """
        with self._lock:
            if self._entries:
                self._write()

    def _write_old(self) -> None:
        try:
            self.flush()
        except BankError:
            self._overdue = True  # nobody hears of it in this thread: who comes next does

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:12]}.parquet"
        self._storage.put(f"{self._folder}/{name}", encode(self._entries))
        self._entries, self._bytes, self._overdue = [], 0, False
        self._on_written(name)
