"""One driver at a time for a study in an object store, which has no locks.

An object beside the study's state says who drives it, and proves by a number that grows that the driver lives. The lock
of the study's directory (`run.lock`) keeps out others of the same machine only.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace

from s2l_ray.errors import ConfigError, S2LError, StorageError
from s2l_ray.machine.storage import Storage
from s2l_ray.run.lock import Holder

DRIVER = ".driver.json"
BEAT_S = 10.0
"""Seconds between two signs of life."""
SILENT_S = 40.0
"""Seconds without one after which a driver on another machine is taken for dead."""
POLL_S = 2.0
CONFIRM_S = 2.0
"""How long after we wrote our name another's, who looked at the same time, may still appear."""


class StoreLock:
    """A study's place in a store, held from `acquire` to `close`."""

    def __init__(self, storage: Storage, holder: Holder) -> None:
        self._storage, self._holder = storage, holder
        self._taken_by: Holder | None = None
        self._closed = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="store-lock", daemon=True)
        self._beating.start()

    @classmethod
    def acquire(cls, storage: Storage, on_wait: Callable[[str], None]) -> StoreLock:
        """Take a study's place, unless another driver is there that lives.

        Args:
            storage: the study's place.
            on_wait: told that another machine's driver is watched for a sign of life, which takes `SILENT_S`.

        Raises:
            ConfigError: another driver lives.
            StorageError: the store cannot be used.
        """
        before = _read(storage)
        if before is not None and _lives(before, storage, on_wait):
            raise _in_use(storage, before)
        mine = Holder.this_process()
        _write(storage, mine)
        time.sleep(CONFIRM_S)
        now = _read(storage)
        if now is None or now.id != mine.id:
            raise _in_use(storage, now)
        return cls(storage, mine)

    def check(self) -> None:
        """Make sure that no other driver has taken the place over while this one showed no sign of life.

        Raises:
            ConfigError: one has, as was seen at the last beat.
        """
        if self._taken_by is not None:
            raise ConfigError(
                f"{self._storage} was taken over by {self._taken_by}, while this process or its store did not get to "
                "answer; that one goes on with the study"
            )

    def close(self) -> None:
        """Give the place back. Safe to call twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._beating.join(BEAT_S)  # a store that hangs must not hold the end of the study up
        with suppress(S2LError):
            if self._other() is None:
                self._storage.remove(DRIVER)

    def _other(self) -> Holder | None:
        """The driver that has taken the place over while this process did not get to run, if one has."""
        holder = _read(self._storage)
        return holder if holder is not None and holder.id != self._holder.id else None

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with suppress(S2LError):  # a store that is away now may answer later
                if (other := self._other()) is not None:
                    self._taken_by = other
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                _write(self._storage, self._holder)


def _lives(holder: Holder, storage: Storage, on_wait: Callable[[str], None]) -> bool:
    """Whether a driver runs on this machine, or shows a sign of life within `SILENT_S`."""
    if holder.is_visible:
        return holder.runs_here
    on_wait(f"{storage} was last driven by {holder}; watching for {SILENT_S:.0f} s whether that one lives")
    end = time.monotonic() + SILENT_S
    while time.monotonic() < end:
        time.sleep(POLL_S)
        if (now := _read(storage)) != holder:
            return now is not None  # None: it has ended in the meantime
    return False


def _in_use(storage: Storage, holder: Holder | None) -> ConfigError:
    by = str(holder) if holder else "another process"
    return ConfigError(f"{storage} is driven by {by}; wait for it, end it, or give the study another name")


def _read(storage: Storage) -> Holder | None:
    """The driver that the object names; None if there is none, or the object is damaged."""
    if not storage.exists(DRIVER):
        return None
    try:
        return Holder.of_json(storage.read(DRIVER))
    except StorageError:
        if storage.exists(DRIVER):
            raise
        return None  # it has ended in between


def _write(storage: Storage, holder: Holder) -> None:
    storage.put(DRIVER, json.dumps(asdict(holder)).encode())
