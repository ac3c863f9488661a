"""A directory for temporary files whose path leaves room for sockets.

The path of a Unix socket has at most 107 bytes (103 on macOS). Ray, vLLM and multiprocessing put theirs below TMPDIR,
which batch systems make long.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from s2l_ray.errors import PlacementError

SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
BELOW = f"/s2l-{os.geteuid()}/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path that is made below the directory: Ray's, with the longest process id (see `actors.own_user`)."""
SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # by mkdtemp, whose directories are private  # nosec B108
"""Where a short name for a long directory may be made."""
PROBE_BYTES = 2**16
_holders: list[Path] = []
"""Directories of the short names that this process has made."""


def use_short_tmpdir(note: Callable[[str], None] = lambda message: None) -> None:
    """Make TMPDIR (and RAY_TMPDIR) short enough for sockets, for this process and for those that it starts.

    A directory that is too deep gets a short name, a symbolic link: files stay where they were meant to be, on the file
    system that the batch system gave.

    Args:
        note: told of the short name.

    Raises:
        PlacementError: the directory is not there, cannot be written, is full or takes no sockets; or it is too deep
            and no short name can be made.
    """
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        # An empty value counts as unset; Ray would take it for the working directory.
        if not os.environ.get(variable):
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = _short(Path(os.environ[variable]).absolute(), variable, note)
    if "TMPDIR" not in os.environ and (refusal := _refusal(SHORT[0])):
        raise PlacementError(f"no temporary files can be made in /tmp: {refusal}. Set TMPDIR to another directory")
    tempfile.tempdir = None  # Python keeps the directory that it found first


@atexit.register
def drop_short_names() -> None:
    """Remove the short names that this process has made; at its end at the latest."""
    while _holders:
        shutil.rmtree(_holders.pop(), ignore_errors=True)  # the link, not what it names


def _short(directory: Path, variable: str, note: Callable[[str], None]) -> str:
    fits = len(os.fsencode(f"{directory}{BELOW}")) <= SOCKET_PATH_BYTES
    short = str(directory) if fits else _linked(directory, variable)
    if refusal := _refusal(short):
        raise PlacementError(
            f"{variable}={directory}: no temporary files can be made there: {refusal}. Set {variable} to a directory "
            "on this machine that exists, can be written and has space, or unset it"
        )
    if not fits:
        note(f"{variable} is too deep for sockets ({len(str(directory))} characters): it is used by the name {short}")
    return short


def _linked(directory: Path, variable: str) -> str:
    """Make a short name for `directory`."""
    reasons = []
    for place in SHORT:
        try:
            holder = Path(tempfile.mkdtemp(prefix="s2l-", dir=place))
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
            continue
        _holders.append(holder)
        (holder / "t").symlink_to(directory)
        return str(holder / "t")
    raise PlacementError(
        f"{variable}={directory} is too deep for sockets, whose paths have at most {SOCKET_PATH_BYTES} bytes, and no "
        f"short name for it can be made ({'; '.join(reasons)}). Set {variable} to a directory of at most "
        f"{SOCKET_PATH_BYTES - len(BELOW)} characters"
    )


def _refusal(directory: str) -> str | None:
    """Why a directory cannot hold files and sockets; None: it can."""
    try:
        with tempfile.TemporaryDirectory(prefix="s2l-", dir=directory) as inside:
            Path(inside, "file").write_bytes(bytes(PROBE_BYTES))
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(f"{inside}/socket")
    except OSError as error:
        return error.strerror or str(error)
    return None
