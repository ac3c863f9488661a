"""Files that a clone without git-lfs leaves in place of large ones: a few lines of text that say what is missing."""

from __future__ import annotations

from pathlib import Path

FIRST_LINE = b"version https://git-lfs.github.com/spec/"


def is_pointer(path: Path) -> bool:
    """Whether the file is a pointer of git-lfs.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(FIRST_LINE)) == FIRST_LINE


def remedy(path: Path) -> str:
    """The remedy for a pointer."""
    return f"run `git lfs pull` in {path.parent}, or copy the file itself from its source"
