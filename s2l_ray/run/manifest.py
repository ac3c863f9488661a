"""What the files of a checkpoint are to hold, written with it and compared with when it is read: manifest.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.machine.checksums import FileSum, sum_of
from s2l_ray.machine.disk import read_json, write_whole

MANIFEST = "manifest.json"
REMEDY = "remove the checkpoint: the run then resumes from the one before it, or begins anew"
READERS = 8
"""Most files that are summed up at a time."""


def write_manifest(directory: Path, sums: Mapping[str, FileSum]) -> None:
    """Write the manifest of a directory.

    Args:
        directory: of the files.
        sums: of all of them, by their paths in it.

    Raises:
        DiskError: it cannot be written.
    """
    files = {name: found._asdict() for name, found in sorted(sums.items())}
    write_whole(directory / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")


def read_manifest(directory: Path) -> dict[str, FileSum]:
    """The sums that a directory's manifest has.

    Raises:
        DataError: it is damaged or not there.
    """
    path = directory / MANIFEST
    return sums_in(read_json(path, REMEDY), str(path))


def sums_in(manifest: Mapping[str, Any], where: str) -> dict[str, FileSum]:
    """The sums in the contents of a manifest; its paths do not lead out of the checkpoint.

    Args:
        manifest: its contents.
        where: it is, for the message.

    Raises:
        DataError: it is damaged.
    """
    try:
        sums = {str(name): FileSum(int(of["bytes"]), str(of["sha256"])) for name, of in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{where} is damaged (it is no manifest); {REMEDY}") from None
    for name in sums:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{where} names {name}, which is no file of it")
    return sums


def check_files(directory: Path) -> None:
    """Compare the files of a checkpoint with its manifest. Several are read at a time.

    Raises:
        DataError: one of them is damaged, or not there. It is named.
    """
    sums = read_manifest(directory)
    for name, wanted in sums.items():  # what is short is found before anything large is read
        path = directory / name
        if not path.is_file():
            raise DataError(f"{path} is not there; {REMEDY}")
        if (size := path.stat().st_size) != wanted.bytes:
            raise DataError(f"{path} is damaged (it has {size} of {wanted.bytes} bytes); {REMEDY}")
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as readers:
        for name, found in zip(sums, readers.map(lambda name: _sum_of(directory / name), sums), strict=True):
            if found != sums[name]:
                raise DataError(f"{directory / name} is damaged (its SHA-256 is not that of {MANIFEST}); {REMEDY}")


def _sum_of(path: Path) -> FileSum:
    try:
        return sum_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); {REMEDY}") from None
