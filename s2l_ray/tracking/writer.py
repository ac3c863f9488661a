"""The thread that delivers the entries of one run: in order, and again until they are taken."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from s2l_ray.errors import DiskError
from s2l_ray.tracking.undelivered import Entry, Undelivered

MOST_METRICS = 1000
"""Metrics of one request (MLflow's limit)."""
ARTIFACTS = ("text", "file")
"""Kinds of entries that go to the artifact store."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
"""Seconds until a failed delivery is repeated: they double from the first to the last."""


class Refused(Exception):  # it is an answer, not an error of ours
    """MLflow will never take this entry."""


class Writer:
    """Delivers entries in its own thread, so that nobody else waits for a server.

    An entry that could not be delivered stays first in line and is tried again; an artifact lets the others pass, since
    only its store may be at fault. One that is refused is lost, and counted. Metrics that follow each other are
    delivered together, so that a server that is slow or was away is caught up with.

    Args:
        undelivered: the file that outlives this process.
        entries: what it holds already.
        deliver: sends entries: one, or several of kind metrics.
        explain: says in a line why a delivery failed.
    """

    def __init__(
        self,
        undelivered: Undelivered,
        entries: Sequence[Entry],
        deliver: Callable[[Sequence[Entry]], None],
        explain: Callable[[BaseException], str],
    ) -> None:
        self.problem: str | None = None
        """Why something is not delivered; None when all is."""
        self.refused: list[tuple[Entry, str]] = []
        """What is lost, and why."""
        self._undelivered, self._deliver, self._explain = undelivered, deliver, explain
        self._queue = deque(enumerate(entries, start=1))
        self._last = len(entries)
        self._changed = threading.Condition()
        self._stopped = self._singly = False
        self._retry_at, self._retry_s = 0.0, FIRST_RETRY_S
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Put an entry last in line. Returns at once: it is in the file, or, where the disk is full, in memory."""
        with self._changed:  # two threads put, and both give an entry its number
            try:
                self._undelivered.add(entry)
            except DiskError as error:
                self.problem = str(error)
            self._last += 1
            self._queue.append((self._last, entry))
            self._changed.notify_all()

    def sync(self) -> None:
        """Make sure of what was put, also against a power cut."""
        self._undelivered.sync()

    @property
    def pending(self) -> list[Entry]:
        """What is not delivered yet, in order."""
        with self._changed:
            return [entry for _, entry in self._queue]

    def wait(self, deadline: float) -> bool:
        """Try at once, and wait until all is delivered; whether it is at the `deadline` (`time.monotonic`)."""
        with self._changed:
            self._retry_at, self._retry_s = 0.0, FIRST_RETRY_S
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._queue, max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Deliver nothing more. A request that is under way is not waited for."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._undelivered.close()

    def deliver_next(self) -> bool:
        """Deliver what is first in line; whether it is off the line: taken, or refused."""
        batch = self._first()
        try:
            self._deliver([entry for _, entry in batch])
        except Refused as refusal:
            if len(batch) > 1:  # which of them it is shows when they go one by one
                self._singly = True
                return True
            self.refused.append((batch[0][1], str(refusal)))
        except Exception as error:  # artifact stores raise the errors of their own libraries
            if self.problem is None:
                self._undelivered.sync()
            self.problem = self._explain(error)
            return self._put_behind(*batch[0])
        self._undelivered.delivered(batch[-1][0])
        with self._changed:
            for _ in batch:
                self._queue.popleft()
            if not self._queue:
                self.problem, self._singly = None, False
            self._changed.notify_all()
        return True

    def _put_behind(self, number: int, entry: Entry) -> bool:
        """Let the others, if any, pass an artifact that failed: its store may be another than the server."""
        with self._changed:
            if entry.kind not in ARTIFACTS or all(waiting.kind in ARTIFACTS for _, waiting in self._queue):
                return False
        self.put(entry)
        self._undelivered.delivered(number)
        with self._changed:
            self._queue.popleft()
        return True

    def _work(self) -> None:
        while self._wait_for_work():
            delivered = self.deliver_next()
            with self._changed:
                if delivered:
                    self._retry_s = FIRST_RETRY_S
                else:
                    self._retry_at = time.monotonic() + self._retry_s
                    self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)

    def _wait_for_work(self) -> bool:
        """Wait until there is something to deliver and it is time to; False: the thread is to end."""
        with self._changed:
            while not self._stopped:
                remaining = self._retry_at - time.monotonic()
                if self._queue and remaining <= 0:
                    return True
                self._changed.wait(remaining if self._queue else None)
        return False

    def _first(self) -> list[tuple[int, Entry]]:
        """The entries to deliver next: the first, and the metrics that follow where it is one of metrics."""
        with self._changed:
            first, *rest = islice(self._queue, MOST_METRICS)
        batch, size = [first], _size(first[1])
        for numbered in rest:
            size += _size(numbered[1])
            if self._singly or {first[1].kind, numbered[1].kind} != {"metrics"} or size > MOST_METRICS:
                break
            batch.append(numbered)
        return batch


def _size(entry: Entry) -> int:
    return len(entry.values["metrics"]) if entry.kind == "metrics" else 0
