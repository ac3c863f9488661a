"""Sizes and SHA-256 digests of files: taken while a file is written, and compared with when it is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from s2l_ray.machine.disk import writing

PIECE = 1 << 26
"""Bytes that are written or read at a time: other threads of the process run meanwhile."""


class FileSum(NamedTuple):
    """What a file holds."""

    bytes: int
    sha256: str
    """In hexadecimal digits, as sha256sum prints it."""


def write_summed(path: Path, parts: Iterable[memoryview | bytes]) -> FileSum:
    """Write a new file; its contents are on the disk when this returns.

    Args:
        path: in a directory that exists.
        parts: what the file holds, one after the other.

    Raises:
        DiskError: it cannot be written. What was written of it is removed, to free the disk.
    """
    digest, size = hashlib.sha256(), 0
    with writing(path):
        try:
            with path.open("wb", buffering=0) as file:
                for part in parts:
                    for piece in _pieces(part):
                        digest.update(piece)
                        _write_all(file.fileno(), piece)
                        size += len(piece)
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return FileSum(size, digest.hexdigest())


def sum_of(path: Path, go_on: Callable[[], None] = lambda: None) -> FileSum:
    """Read a file and sum it up.

    Args:
        path: of it.
        go_on: called for every piece.

    Raises:
        OSError: it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            go_on()
            digest.update(piece)
            size += len(piece)
    return FileSum(size, digest.hexdigest())


def _pieces(part: memoryview | bytes) -> Iterable[memoryview]:
    view = memoryview(part)
    return (view[start : start + PIECE] for start in range(0, len(view), PIECE))


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]
