"""Reading and writing our files: whole or not at all, with a clear message where the disk refuses or one is damaged."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError, DiskError, S2LError
from s2l_ray.machine.reading import KINDS, MOST_JSON_BYTES, read_bounded

_ROOM = "free some space there"
_ACCESS = "give this user the right to write there, or choose another place"
_BROKEN = "the disk or the server that it is on has failed"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: f"{_ROOM}, or have the quota raised",
    errno.EFBIG: "the file system or a limit of this process (ulimit -f) does not allow files of that size",
    errno.EROFS: "the file system is mounted read-only: choose another place",
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EIO: _BROKEN,
    errno.ESTALE: _BROKEN,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "a directory of the path is not there and cannot be made: choose another place",
    errno.ENOTDIR: "part of the path is a file: choose another place",
    errno.EEXIST: "another file is in the way: move it, or choose another place",
    errno.EISDIR: "a directory is in the way: move it, or choose another place",
    errno.ELOOP: "its links go in a circle: choose another place",
}
"""Error number -> what to do about it."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn errors of the disk that occur while `path` is written into a clear one, whatever library wraps them.

    Raises:
        DiskError: in place of every such error. Other errors pass as they are.
    """
    try:
        yield
    except (S2LError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        if (refused := refusal(error, path)) is None:
            raise
        raise refused from error


def refusal(error: BaseException, path: str | Path) -> DiskError | None:
    """The error to show in place of `error`, which occurred while `path` was written; None: no disk is to blame."""
    reasons = list(_reasons(error))
    known = [reason for reason in reasons if isinstance(reason, DiskError)]
    numbers = [number for reason in reasons if (number := _number(reason)) in REMEDIES]
    if known or not numbers:
        return known[0] if known else None
    return DiskError(
        f"{path} cannot be written: {os.strerror(numbers[0])}; {REMEDIES[numbers[0]]}, then give the same command again"
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the whole new one, also after a crash or a power cut.

    Lone surrogates, which UTF-8 cannot encode, are written as JSON's escapes for them.

    Raises:
        DiskError: see `writing`. The old file is unchanged.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    with suppress(OSError):  # not every file system can
        sync_directory(output_file(path).parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path of a file to write, which takes the place of `path` when the block ends. Its directory is made.

    Raises:
        DiskError: see `writing` and `output_file`. The old file is unchanged.
    """
    target = output_file(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, target)
        except BaseException:
            with suppress(OSError):
                partial.unlink()  # it takes space that may be short
            raise


def output_file(path: Path, key: str = "") -> Path:
    """Where a file is to be written that need not exist: at the end of links, so that these stay links.

    What is written takes the place of what is there, which must be a file therefore. A pipe or a device would be gone.

    Args:
        key: whose value the path is, such as "--to", for the message.

    Raises:
        DiskError: there is something else, or the file to which this process prints.
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        try:
            found = Path(path).stat()  # not of the target: links in /proc lead to what has no path, such as a pipe
        except FileNotFoundError:
            return target
    where = f"{key}: {path}" if key else str(path)
    if kind := KINDS.get(stat.S_IFMT(found.st_mode)):
        raise DiskError(f"{where} is {kind}, and what is written would take its place; name a file")
    if any(_is_open_as(stream, found) for stream in (1, 2)):
        raise DiskError(f"{where} is the file to which this command prints; name another file")
    return target


def _is_open_as(descriptor: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file)
    except OSError:  # it is closed
        return False


def append(path: Path, text: str) -> None:
    """Add text at the end of a file. It is on disk when this returns.

    Raises:
        DiskError: see `writing`; part of the text may be in the file.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Have the names of a directory's files on the disk.

    Raises:
        OSError: the file system cannot do that.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_up(directory: Path) -> None:
    """Give everybody who may read a directory the right to read its files; safetensors makes them private."""
    readers = directory.stat().st_mode & 0o444
    for file in directory.iterdir():
        if file.is_file():
            file.chmod(file.stat().st_mode | readers)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read the JSON object in a file.

    Args:
        path: of the file.
        remedy: what to do when the file is damaged, as the end of a sentence.

    Raises:
        DataError: the file cannot be read, or is not a JSON object.
    """
    try:
        value = json.loads(read_bounded(path, MOST_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged (it is not a JSON object); {remedy}")
    return value


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the errors it was raised from, and those that torch.distributed.checkpoint gathered from its ranks."""
    while error is not None:
        yield error
        for wrapped, _ in getattr(error, "failures", {}).values():
            yield from _reasons(wrapped)
        error = error.__cause__ or error.__context__


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    rust = re.search(r"\(os error (\d+)\)", str(error))  # safetensors is written in it, and has errors of its own
    return int(rust[1]) if rust else None
