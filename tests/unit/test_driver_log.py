"""RUN_DIR/driver.log: what the screen said, and how the run ended."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from s2l_ray.errors import PlacementError
from s2l_ray.machine.ending import Ended
from s2l_ray.reporter import SilentReporter
from s2l_ray.run.driver_log import DriverLog
from tests.support.step_records import step

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  "


class Noting(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def lines_of(directory: Path) -> list[str]:
    """Without their times, which each line has."""
    lines = (directory / "driver.log").read_text().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    return [re.sub(f"^{STAMP}", "", line) for line in lines]


def test_each_line_has_its_time_and_a_resumed_run_adds_to_it(tmp_path: Path):
    with DriverLog(SilentReporter(), 60, "mine") as log:
        log.phase("checking models and data")
        log.open(tmp_path)
        log.turn(1, "rollout")
        log.note("computing in [float32]: " + "a long reason " * 20 + "\nin two lines")
        log.step(step(12))
    first = lines_of(tmp_path)
    assert first[0] == "checking models and data" and first[1].startswith("note: computing in [float32]: a long")
    assert first[1].endswith("a long reason") or first[1].endswith("a long reason ")
    assert first[2] == "in two lines" and first[3].startswith("step 12/60  alpha ") and len(first) == 4
    with DriverLog(SilentReporter(), 60, "mine") as log:
        log.open(tmp_path)
        log.phase("starting Ray")
    assert lines_of(tmp_path) == [*first, "starting Ray"]


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (Ended(signal.SIGTERM), "stopped by SIGTERM; the same command goes on from the last checkpoint"),
        (KeyboardInterrupt(), "stopped by a signal; the same command goes on from the last checkpoint"),
        (PlacementError("no placement: too large"), "error: no placement: too large"),
        (ValueError("a bug"), "ValueError: a bug"),
        (ValueError("no answer of http://me:secret@host"), "ValueError: no answer of http://***@host"),
    ],
)
def test_it_says_how_the_run_ended(error: BaseException, last: str, tmp_path: Path):
    with pytest.raises(type(error)), DriverLog(SilentReporter(), 60, "mine") as log:
        log.open(tmp_path)
        log.phase("starting engines")
        raise error
    lines = lines_of(tmp_path)
    assert lines[0] == "starting engines" and lines[-1] == last


def test_all_is_passed_on_and_a_log_that_cannot_be_written_is_one_note(tmp_path: Path):
    reporter = Noting()
    with DriverLog(reporter, 60, "mine") as log:
        log.open(tmp_path / "missing")
        log.note("one")
        log.note("two")
    assert reporter.notes == ["driver.log is not written any more: No such file or directory", "one", "two"]
