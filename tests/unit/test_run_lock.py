from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from s2l_ray.errors import ConfigError
from s2l_ray.run import lock as locking
from s2l_ray.run.lock import Holder, RunLock
from tests.support.patience import PATIENCE_S
from tests.support.undisturbed import ROOT

HOLD = """
import sys, time
from pathlib import Path
from s2l_ray.run.lock import RunLock
lock = RunLock.acquire(Path(sys.argv[1]), 1, print)
print("held", flush=True)
time.sleep(900)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT_S": 0.05, "SILENT_S": 1.0, "POLL_S": 0.05, "CONFIRM_S": 0.05}.items():
        monkeypatch.setattr(locking, name, seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has no locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def acquire(path: Path, timeout_s: float = 900.0) -> tuple[RunLock, list[str]]:
    said: list[str] = []
    return RunLock.acquire(path, timeout_s, said.append), said


def remote(path: Path, **changed: object) -> Holder:
    """What a process of another machine left in the file."""
    holder = replace(Holder.this_process(), host="pod-7", pid=41, process="another boot/pid:[1]/99", job="raysubmit_x")
    holder = replace(holder, **changed)
    path.write_text(json.dumps(asdict(holder)))
    return holder


def started(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture(params=["flock", "no locks"])
def file_system(request: pytest.FixtureRequest) -> None:
    if request.param == "no locks":
        request.getfixturevalue("no_flock")


def test_a_living_holder_of_this_machine_is_named_at_once_and_a_killed_one_replaced(path: Path, file_system: None):
    process = started(path)
    with pytest.raises(ConfigError) as caught:
        acquire(path)
    expected = f"another process is writing to {path.parent}: process {process.pid} on "
    assert str(caught.value).startswith(expected) and ", since 20" in str(caught.value)
    process.kill()
    process.wait(PATIENCE_S)
    lock, said = acquire(path)
    assert said == [] and json.loads(path.read_text())["pid"] != process.pid
    lock.close()
    assert path.read_text() == ""


def test_a_holder_that_is_ending_is_waited_for(path: Path, file_system: None):
    """Tune starts a trial in another process while the one before it still ends."""
    process, said = started(path), []

    def end(message: str) -> None:
        said.append(message)
        process.kill()
        process.wait(PATIENCE_S)

    RunLock.acquire(path, PATIENCE_S, end, holder_ends=True).close()
    assert len(said) == 1 and f"held by process {process.pid} on" in said[0] and "until it has ended" in said[0]


def test_a_holder_that_does_not_end_is_an_error_that_says_so(path: Path, file_system: None):
    process = started(path)
    with pytest.raises(ConfigError, match=rf"is in use by process {process.pid} on .* not ended within \d+ s; end it"):
        RunLock.acquire(path, 0.3, print, holder_ends=True)
    assert json.loads(path.read_text())["pid"] == process.pid
    process.kill()
    process.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"id": "x"}'),
        *(
            json.dumps(asdict(Holder.this_process()) | {key: value}).encode()
            for key, value in (("process", 5), ("process", None), ("process", ["a"]), ("pid", "../1"), ("beat", "x"))
        ),
    ],
)
def test_a_lock_whose_file_is_damaged_is_taken(path: Path, damage: bytes):
    path.write_bytes(damage)
    lock, _ = acquire(path)
    lock.check()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.close()


def test_one_that_has_let_go_is_not_waited_for(path: Path, file_system: None):
    for _ in range(2):
        lock, said = acquire(path)
        lock.check()
        with pytest.raises(ConfigError, match="another process is writing"):
            acquire(path)
        lock.close()
        lock.close()
        assert said == []


def test_a_silent_holder_of_another_machine_is_waited_for_and_replaced(path: Path, file_system: None):
    remote(path)
    begin = time.monotonic()
    lock, said = acquire(path)
    assert time.monotonic() - begin > locking.SILENT_S
    begun = f"waiting for the lock of {path.parent}, held by process 41 on pod-7, Ray job raysubmit_x, since 20"
    assert len(said) == 1 and said[0].startswith(begun)
    lock.close()


def test_a_holder_of_another_machine_that_shows_signs_of_life_is_an_error(path: Path, file_system: None):
    holder = remote(path)

    def beat(message: str) -> None:
        remote(path, **{**asdict(holder), "beat": 1})

    with pytest.raises(ConfigError, match="another process is writing .* process 41 on pod-7, Ray job raysubmit_x"):
        RunLock.acquire(path, PATIENCE_S, beat)


def test_a_lock_that_outlives_its_holder_is_one_error_that_says_which_file_to_remove(path: Path):
    remote(path)
    with path.open() as lease:  # of a file server that has not noticed
        fcntl.flock(lease, fcntl.LOCK_EX)
        with pytest.raises(ConfigError) as caught:
            acquire(path, timeout_s=2)
        message = str(caught.value)
        assert "is locked by process 41 on pod-7" in message
        assert re.search(r"no sign of life for \d+ s \(cluster.lock_", message)
        assert f"remove {path} and give the same command again" in message
        path.unlink()
        acquire(path)[0].close()


def test_whose_lock_was_taken_over_learns_it(path: Path):
    lock, _ = acquire(path)
    first = json.loads(path.read_text())
    while json.loads(path.read_text() or "null") in (first, None):  # it shows signs of life
        time.sleep(0.01)
    taken = remote(path)
    with pytest.raises(ConfigError, match="was taken over by process 41 on pod-7"):
        lock.check()
    lock.close()
    assert json.loads(path.read_text())["id"] == taken.id  # and leaves the other's alone


def test_the_ray_job_is_in_the_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    assert ", Ray job raysubmit_1, since" in str(Holder.this_process())
    for other in ("", "no JSON", "[]", "{}"):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", other)
        assert "Ray job" not in str(Holder.this_process())
