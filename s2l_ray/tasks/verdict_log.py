"""The log of a worker's verdicts: a file in memory that its parent can read at any time, even after the worker died.

A message per verdict would wake the parent for each of them, on the core that the next answer could be checked on.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import NamedTuple

from s2l_ray.kinds import VerdictStatus


class LoggedVerdict(NamedTuple):
    """One checked answer."""

    time: float
    """The end of the check, in seconds of the machine's monotonic clock, which all processes share."""
    status: VerdictStatus
    reward: float
    detail: str


class VerdictLog:
    """The verdicts on one chunk of answers, in order. One process writes; the one that made the log reads and clears.

    Args:
        fd: an inherited log; None makes one.
    """

    def __init__(self, fd: int | None = None):
        if fd is None:
            fd = os.memfd_create("verdicts")
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # after a clear, writing goes on at the start
        self.fd = fd

    def append(self, verdict: LoggedVerdict) -> None:
        """Write one more verdict."""
        os.write(self.fd, json.dumps(verdict).encode() + b",\n")

    def read(self) -> list[LoggedVerdict]:
        """Read the whole verdicts; what a killed worker left of one does not count."""
        text = os.pread(self.fd, os.fstat(self.fd).st_size, 0)
        whole = text[: text.rfind(b",\n") + 1].rstrip(b",")
        return [LoggedVerdict(*entry) for entry in json.loads(b"[" + whole + b"]")]

    def clear(self) -> None:
        """Forget all verdicts."""
        os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Close the file in memory; it is gone once both sides have."""
        os.close(self.fd)
