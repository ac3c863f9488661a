"""Reading a file that a user has named: it must be a file, no larger than such files are, and hold what it should."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

CHUNK_BYTES = 2**20
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What a path can name in the place of a file."""


MOST_JSON_BYTES = 2**28
"""Of a JSON file of ours, or of a model: many times the largest, the vocabulary of a tokenizer."""
MOST_LOG_BYTES = 2**32
"""Of a log of ours with a line for each step."""


def kind_of(path: Path) -> str | None:
    """What a path names, links followed, if it is no file: such as "a directory"; None if it is a file.

    Raises:
        OSError: there is nothing, or it may not be looked at.
        ValueError: there is a NUL character in it.
    """
    return KINDS.get(stat.S_IFMT(path.stat().st_mode))


MISREAD = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError)
"""What code raises that reads contents which another version, or somebody else, has written."""


def misread(error: Exception) -> str:
    """What is wrong with contents that could not be read, in words, from the exception of the code that read them."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}" if error.args else "a key is missing"
    if isinstance(error, ValueError) and (said := str(error).strip()):
        return said.splitlines()[0].rstrip(".")
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "a value in it is of another type, or is missing"


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The contents of a file. A pipe or a device, which could block or never end, is not waited for.

    Raises:
        OSError: it cannot be read, is no file, or has more than `most_bytes` bytes; `strerror` says what.
        ValueError: there is a NUL character in the path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if (kind := KINDS.get(stat.S_IFMT(status.st_mode))) is not None:
            raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
        content = bytearray()
        while part := file.read(CHUNK_BYTES):  # whatever the size that a file of /proc says it has
            content += part
            if len(content) > most_bytes:
                raise OSError(errno.EFBIG, f"it is larger than {most_bytes / 2**20:.0f} MiB", str(path))
    return bytes(content)
