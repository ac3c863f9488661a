"""What tests share is built by the first that asks, once, and again after a failure."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.support.shared import built_once


def build(directory: Path) -> str:
    with (directory.parent / "builds").open("a") as log:
        log.write("x")
    (directory / "file").write_text("whole")
    return str(directory)


def ask(directory: Path) -> str:
    return (Path(built_once(directory, build)) / "file").read_text()


def test_processes_that_ask_at_once_get_what_one_of_them_built(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(ask, [tmp_path / "thing"] * 6) == ["whole"] * 6
    assert (tmp_path / "builds").read_text() == "x"


def test_a_build_that_failed_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        built_once(tmp_path / "thing", lambda fresh: (fresh / "half").write_text("") or 1 / 0)
    fresh = built_once(tmp_path / "thing", lambda fresh: fresh)
    assert fresh.is_dir() and not list(fresh.iterdir())
