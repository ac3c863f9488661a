"""The preStop hook of pods: whom it tells, and for whom it waits."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from s2l_ray.cluster import pre_stop
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("command", "driver"),
    [
        ("/opt/s2l/bin/python3.11 /opt/s2l/bin/s2l train /etc/s2l-ray/config.yaml", True),
        ("python -m s2l_ray train quickstart", True),
        ("/bin/sh -c s2l train /etc/s2l-ray/config.yaml", False),
        ("python -m s2l_ray.cluster.pre_stop head 60", False),
        ("python /opt/ray/dashboard/dashboard.py --host=0.0.0.0", False),
        ("bash", False),
    ],
)
def test_a_driver_is_python_with_our_command(command: str, driver: bool):
    assert pre_stop.is_driver(command.split()) == driver


@pytest.mark.parametrize(
    ("title", "actor"),
    [
        ("ray::TrainerRank", True),
        ("ray::Explorer.sample", True),
        ("ray::IDLE", False),
        ("ray::DashboardAgent", False),
        ("ray::JobSupervisor", False),
        ("python", False),
    ],
)
def test_an_actor_of_a_run_is_known_by_its_title(title: str, actor: bool):
    assert pre_stop.is_actor([title, ""]) == actor


def test_every_actor_of_a_run_is_waited_for():
    classes = {
        node.name
        for file in (ROOT / "actors").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any("ray.remote" in ast.unparse(d) for d in node.decorator_list)
    }
    assert classes == set(pre_stop.ACTORS)


DRIVER = """
import signal, sys, time
def end(number, frame):
    time.sleep(0.5)
    print("ended", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_driver_is_told_and_waited_for(tmp_path: Path):
    """Real processes; the hook is kept from those of others on this machine."""
    (tmp_path / "s2l").write_text(DRIVER)
    words = [sys.executable, str(tmp_path / "s2l"), "train"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as driver, ExitStack() as at_last:
        at_last.callback(driver.kill)
        assert driver.stdout.readline() == "ready\n"

        def mine() -> list[int]:
            driver.poll()  # takes it from the table of processes once it has ended
            return [process for process in pre_stop.drivers() if process == driver.pid]

        assert mine() == [driver.pid]
        assert pre_stop.wait_until_none(mine, 0.3) == 1  # nobody told it
        begun = time.monotonic()
        assert pre_stop.end(mine, 30, seen_s=1) == 0
        assert 1.5 <= time.monotonic() - begun < 20 and driver.stdout.read() == "ended\n"
        assert driver.wait() == 130
        begun = time.monotonic()
        assert pre_stop.end(mine, 30, seen_s=60) == 0  # there is none left to be seen
        assert time.monotonic() - begun < 60
