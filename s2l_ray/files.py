"""Small files that must be whole: after a crash there is the old one or the new one; damage is one clear message."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError


def replace_file(path: Path, text: str) -> None:
    """Write `text` so that readers, and whoever comes after a crash or a power cut, see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    with contextlib.suppress(OSError):  # not every file system can
        _sync_directory(path.parent)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of ours.

    Args:
        remedy: what to do when the file is damaged, as the end of a sentence.

    Raises:
        DataError: the file cannot be read, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged (it is not a JSON object); {remedy}")
    return value


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
