"""Rollouts on their way into shards: gathered until a shard is full or old enough, then written whole."""

from __future__ import annotations

import threading
import time
import uuid

from s2l_ray.bank.shard import Entry, encode
from s2l_ray.bank.storage import Storage

SHARD_BYTES = 64 * 2**20
"""Of rollouts in memory; the file is about a quarter of it."""
SHARD_AGE_S = 60.0
"""How old a shard's first rollout may become in memory, which is what a kill can lose."""


class Writer:
    """Appends shards. Their names are unique, so that several writers may record side by side. For several threads.

    Args:
        storage, folder: where the shards go.
    """

    def __init__(
        self, storage: Storage, folder: str, shard_bytes: int = SHARD_BYTES, shard_age_s: float = SHARD_AGE_S
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._shard_age_s = shard_age_s
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._bytes = 0
        self._since = 0.0

    def add(self, entries: list[Entry]) -> str | None:
        """Take rollouts in. Returns the name of the shard that was written because of it, if one was.

        Raises:
            BankError: it cannot be written; the rollouts are kept and tried again with the next.
        """
        with self._lock:
            if not self._entries:
                self._since = time.monotonic()
            self._entries += entries
            self._bytes += sum(entry.nbytes for entry in entries)
            due = self._bytes >= self._shard_bytes or time.monotonic() - self._since >= self._shard_age_s
            return self._write() if due else None

    def flush(self) -> str | None:
        """Write what is held. Returns the shard's name; None if there was nothing."""
        with self._lock:
            return self._write() if self._entries else None

    def _write(self) -> str:
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:12]}.parquet"
        self._storage.put(f"{self._folder}/{name}", encode(self._entries))
        self._entries, self._bytes = [], 0
        return name
