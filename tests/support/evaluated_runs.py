"""Run directories with no more in them than naming their models takes."""

from __future__ import annotations

from pathlib import Path


def run_directory(path: Path, *, trained: bool) -> Path:
    """A run of the quickstart, with the model that it leaves or without."""
    path.mkdir()
    (path / "config.yaml").write_text("extends: quickstart\n")
    if trained:
        (path / "model").mkdir()
        (path / "model" / "config.json").write_text("{}")
    return path
