"""How much host memory processes of this machine can still take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
"""Of the container that this process is in, or of the machine."""


def available_bytes() -> int:
    """What Linux says is available, or what the container's limit leaves, if that is less. Cached files count as free.

    0 where neither is known.
    """
    found = [_of_machine()]
    with suppress(OSError, ValueError, KeyError):
        limit = int((CGROUP / "memory.max").read_text())  # "max" where there is none
        rows = (line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        cached = {name: int(number) for name, number in rows}["inactive_file"]
        found.append(max(0, limit - int((CGROUP / "memory.current").read_text()) + cached))
    return min(found)


def _of_machine() -> int:
    with suppress(OSError):
        for line in MEMINFO.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    return 0
