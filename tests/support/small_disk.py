"""File systems and limits that refuse."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of this size at `directory`. Skips the test where one may not be mounted."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(directory)]
    try:
        refused = subprocess.run(mount, capture_output=True, text=True, timeout=30).returncode
    except FileNotFoundError:
        refused = True
    if refused:
        pytest.skip("mounting a small disk needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True, timeout=30)


def read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=30)


def fill(disk: Path) -> Path:
    """Use what is left of a small disk; returns the file that takes it."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return path
    raise AssertionError("the disk took everything")


@contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes, as `ulimit -f` says it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
