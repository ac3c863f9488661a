"""Limits of memory, by control groups of version 1. Where this machine has another version, there are none."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

ROOT = Path("/sys/fs/cgroup/memory")
PREFIX = "s2l-rehearsal-"


def why_unlimited() -> str | None:
    """Why limits of memory are not applied here; None where they are."""
    if (ROOT / "memory.limit_in_bytes").exists() and os.access(ROOT, os.W_OK):
        return None
    return f"{ROOT} is no control group of version 1 that can be written to"


def remove_left_groups() -> None:
    """Remove what tests that were killed have left, and what this one is done with."""
    if why_unlimited():
        return
    for group in ROOT.glob(f"{PREFIX}*"):
        owner = int(group.name.removeprefix(PREFIX).split("-")[0])
        if owner == os.getpid() or not psutil.pid_exists(owner):
            with contextlib.suppress(OSError):  # its processes are about to end
                group.rmdir()


class MemoryGroup:
    """The control group of one container. `path` is None where there are none."""

    def __init__(self, name: str) -> None:
        self.path = None if why_unlimited() else ROOT / f"{PREFIX}{os.getpid()}-{name}"
        if self.path:
            self.path.mkdir(exist_ok=True)

    def limit(self, size: int) -> None:
        """Set the limit, in bytes."""
        if self.path:
            (self.path / "memory.limit_in_bytes").write_text(str(size), encoding="utf-8")

    @property
    def peak(self) -> int:
        """Bytes that it has had at most; 0 where that is not known. Includes cached files."""
        return int((self.path / "memory.max_usage_in_bytes").read_text()) if self.path else 0

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed because of the limit."""
        if self.path is None:
            return 0
        lines = (self.path / "memory.oom_control").read_text().splitlines()
        return int(dict(line.split() for line in lines).get("oom_kill", 0))

    def remove(self) -> None:
        """Remove it, once its processes are gone."""
        for _ in range(100):
            if self.path is None or not self.path.exists():
                return
            with contextlib.suppress(OSError):
                self.path.rmdir()
            time.sleep(0.02)
