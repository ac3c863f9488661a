"""Gathers rollouts until they fill a shard or the oldest has waited long enough, and then writes the shard."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from s2l_ray.bank.shard import ShardRow, encode
from s2l_ray.errors import BankError
from s2l_ray.machine.storage import Storage

SHARD_BYTES = 64 * 2**20
"""Size of a shard's rollouts in memory; the file has about a quarter of it."""
SHARD_AGE_S = 60.0
"""Longest time for which a rollout stays in memory only, where a killed process loses it."""


@dataclass(frozen=True)
class Receipt:
    """What became of rollouts that a writer was given."""

    number: int
    """Theirs: the writer counts what it is given."""
    written: int
    """What has this number or a lower one is in the bank; the rest is in this process only."""


class Writer:
    """Adds shards to a recording. Thread-safe; shards have unique names, so several writers can record side by side.

    Args:
        storage: the bank.
        folder: the directory of the recording's shards.
        on_written: called with the name of every shard, in the thread that wrote it.
        shard_bytes: size of the rollouts, in memory, at which a shard is written.
        shard_age_s: age of the oldest rollout, in seconds, at which a shard is written.
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
        self._rows: list[ShardRow] = []
        self._bytes = 0
        self._timer: threading.Timer | None = None
        self._overdue = False
        self._added = self._written = 0

    def add(self, rows: list[ShardRow]) -> Receipt:
        """Add rollouts. A shard is written now if they fill it, else when they are `shard_age_s` old.

        Raises:
            BankError: the shard cannot be written, or could not when it was old enough. Its rollouts are kept and
                written with the next.
        """
        with self._lock:
            self._rows += rows
            self._added += 1
            self._bytes += sum(row.nbytes for row in rows)
            if not self._rows:
                self._written = self._added
            elif self._overdue or self._bytes >= self._shard_bytes:
                self._write()
            elif self._timer is None:
                self._timer = threading.Timer(self._shard_age_s, self._write_old)
                self._timer.daemon = True
                self._timer.start()
            return Receipt(self._added, self._written)

    def flush(self) -> None:
        """Write a shard of the rollouts that are not written yet.

        Raises:
            BankError: it cannot be written. The rollouts are kept.
        """
        with self._lock:
            if self._rows:
                self._write()

    def _write_old(self) -> None:
        try:
            self.flush()
        except BankError:
            self._overdue = True  # nobody would see the error in this thread: the next `add` tries again and raises

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:12]}.parquet"
        self._storage.put(f"{self._folder}/{name}", encode(self._rows))
        self._rows, self._bytes, self._overdue = [], 0, False
        self._written = self._added
        self._on_written(name)
