"""Commands that are told to end, by real signals to real processes; a whole run is ended in test_run.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from s2l_ray.cli import main
from s2l_ray.machine.ending import AGAIN_S
from tests.support.paths import ROOT

HANG = """
import os, time
from pathlib import Path

def check(response, answer, question):
    if response == "hang":
        Path("hangs").write_text(str(os.getpid()))
        time.sleep(600)
    return response == answer
"""


def ignoring(*signals: signal.Signals):
    """What a shell script does to a job that it starts with `&`, and nohup to its command."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in signals else signal.SIG_DFL)

    return prepare


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _leave_none_behind():
    yield
    while STARTED:
        STARTED.pop().kill()


def start(words: list[str], folder: Path, ignored: tuple[signal.Signals, ...] = ()) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=ignoring(*ignored),
    )
    STARTED.append(process)
    return process


def program(text: str, folder: Path, ignored: tuple[signal.Signals, ...] = ()) -> subprocess.Popen:
    """That has said "ready"."""
    process = start(["-c", text], folder, ignored)
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


# ---- a command that is at work ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "ignored", "status", "said"),
    [
        (signal.SIGTERM, (signal.SIGINT,), 143, "ended by SIGTERM\n"),
        (signal.SIGTERM, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), 143, "ended by SIGTERM\n"),
        (signal.SIGINT, (), 130, "interrupted\n"),
        (signal.SIGHUP, (), 129, "ended by SIGHUP\n"),
    ],
)
def test_a_command_ends_when_it_is_told_to(told, ignored, status: int, said: str, tmp_path: Path):
    """`s2l verify`, whose worker process is in the middle of an answer."""
    (tmp_path / "grader.py").write_text(HANG)
    rows = [{"answer": "1", "response": response} for response in ("1", "2", "hang")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.mkfifo(tmp_path / "hangs")
    words = ["-m", "s2l_ray", "verify", "rows.jsonl", "--kind", "grader:check", "--workers", "1", "--timeout", "500"]
    process = start(words, tmp_path, ignored)
    worker = psutil.Process(int((tmp_path / "hangs").read_text()))  # waits until it hangs
    assert [process.stdout.readline().split()[:2] for _ in range(2)] == [["verified", "1/3"], ["verified", "2/3"]]
    process.send_signal(told)
    assert ended(process) == (status, "", said)
    worker.wait(60)
    kept = (tmp_path / "rows.verdicts.jsonl.partial").read_text().splitlines()
    assert [json.loads(line)["verdict"] for line in kept] == ["right", "wrong"]


def test_what_was_ignored_stays_ignored_but_for_sigterm(tmp_path: Path):
    text = """
import signal, time
from s2l_ray.machine.ending import ends_when_told
with ends_when_told():
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.raise_signal(number)
    print("ready", flush=True)
    while True:  # signal.pause() would miss a signal that comes just before it
        time.sleep(0.05)
"""
    process = program(text, tmp_path, (signal.SIGINT, signal.SIGHUP))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert "s2l_ray.machine.ending.Ended" in ended(process)[2]


# ---- while it tidies up -------------------------------------------------------------------------------------------

TIDIES = """
import signal, sys, time
from s2l_ray import cli
from s2l_ray.commands import doctor
from s2l_ray.machine import ending
ending.GRACE_S = {grace}

def wait():
    while True:  # signal.pause() would miss a signal that comes just before it
        time.sleep(0.05)

def work(arguments):
    try:
        print("ready", flush=True)
        wait()
    finally:
        print("tidying", flush=True)
        {tidy}
        print("tidied", flush=True)

doctor.run = work
sys.exit(cli.main(["doctor"]))
"""


SWALLOWING = """
class Swallowing:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
"""


def test_signals_that_come_together_are_one_and_ctrl_c_after_that_ends_it_at_once(tmp_path: Path):
    """`timeout` and batch systems signal the program and its group; whoever waits in vain presses Ctrl-C again."""
    tidy = "[print(sys.stdin.readline().strip(), flush=True) for _ in range(2)]; time.sleep(600)"
    process = program(TIDIES.format(grace=100, tidy=tidy), tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "tidying\n"
    for again in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(again)
    print("goes on", file=process.stdin, flush=True)
    assert process.stdout.readline() == "goes on\n"
    time.sleep(AGAIN_S)
    for again in (signal.SIGTERM, signal.SIGHUP):  # a job that was stopped, and whose pod is deleted then
        process.send_signal(again)
    print("still", file=process.stdin, flush=True)
    assert process.stdout.readline() == "still\n"
    process.send_signal(signal.SIGINT)
    assert ended(process)[:2] == (143, "")


def test_what_a_finaliser_swallows_is_raised_again(tmp_path: Path):
    """Python only reports what is raised in __del__; the command would go on."""
    text = TIDIES.format(grace=100, tidy="pass").replace("        wait()", "        Swallowing(); wait()")
    process = program(text.replace("def work", SWALLOWING + "def work"), tmp_path)
    assert ended(process) == (143, "tidying\ntidied\n", "ended by SIGTERM\n")


FAMILY = """
import os, subprocess, sys
from s2l_ray.machine.ending import leave
from s2l_ray.machine.processes import mark

GRANDCHILD = "import time; time.sleep(600)"
CHILD = f"import sys, subprocess as s; args = [sys.executable, '-c', {GRANDCHILD!r}]; none = s.DEVNULL\\n"
CHILD += "print(s.Popen(args, stdout=none, stderr=none).pid)"
for environment in (os.environ | mark(), None):
    print(subprocess.run([sys.executable, "-c", CHILD], env=environment, stdout=-1, text=True).stdout.strip())
sys.stdout.flush()
sys.stdin.readline()
leave(3)
"""


def test_what_must_be_begun_whole_is_begun_whole(tmp_path: Path):
    """Such as an MLflow run, which has to be known to be ended."""
    lines = ["with ending.held():", "print('ready', flush=True)", "sys.stdin.readline()", "print('begun', flush=True)"]
    text = TIDIES.format(grace=100, tidy="pass").replace('print("ready", flush=True)', "pass")
    process = program(text.replace("        wait()", " " * 8 + ("\n" + " " * 12).join(lines)), tmp_path)
    for number in (signal.SIGTERM, signal.SIGTERM):
        process.send_signal(number)
    print("on", file=process.stdin, flush=True)
    assert ended(process) == (143, "begun\ntidying\ntidied\n", "ended by SIGTERM\n")


def test_no_process_that_was_marked_is_left_and_no_other_is_harmed(tmp_path: Path):
    """As a private Ray's are: also one whose parent is gone."""
    process = start(["-c", FAMILY], tmp_path)
    marked, other = (psutil.Process(int(process.stdout.readline())) for _ in range(2))
    process.communicate("\n", timeout=60)
    assert process.returncode == 3
    assert not marked.is_running() or marked.status() == psutil.STATUS_ZOMBIE
    assert other.is_running()
    other.kill()


def test_tidying_up_that_fails_is_an_end_all_the_same(tmp_path: Path):
    process = program(TIDIES.format(grace=100, tidy='raise RuntimeError("it is gone already")'), tmp_path)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "tidying\n", "ended by SIGTERM\n")


def test_tidying_up_that_never_ends_is_cut_off(tmp_path: Path):
    process = program(TIDIES.format(grace=0.2, tidy="wait()"), tmp_path)
    process.send_signal(signal.SIGTERM)
    said = "tidying up took more than 0.2 s; ended without it\n"
    assert ended(process) == (143, "tidying\n", said)


@pytest.mark.parametrize(("grace", "said"), [(100, ""), (0.2, "tidying up took more than 0.2 s; ended without it\n")])
def test_how_to_go_on_is_said_also_where_tidying_up_is_cut_short(grace: float, said: str, tmp_path: Path):
    text = TIDIES.format(grace=grace, tidy="wait()")
    words = "with ending.parting_words('go on with\\n  s2l tune --resume DIR\\n'):"
    text = text.replace(
        "def work(arguments):", f"def work(arguments):\n    {words} tidying_work()\n\ndef tidying_work():"
    )
    process = program(text, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "tidying\n"
    if not said:
        time.sleep(AGAIN_S)
        process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", said + "go on with\n  s2l tune --resume DIR\n")


def test_a_signal_in_the_last_moment_of_a_command_ends_it(tmp_path: Path):
    """Python runs the handler between any two instructions, and the one that is interrupted may have a lock."""
    text = """
import signal, sys, threading
from s2l_ray import cli
from s2l_ray.commands import doctor
known = threading.Event.set

def interrupted(event):
    threading.Event.set = known
    with event._cond:
        signal.raise_signal(signal.SIGTERM)
    known(event)

def work(arguments):
    print("ready", flush=True)
    threading.Event.set = interrupted
    return 0

doctor.run = work
sys.exit(cli.main(["doctor"]))
"""
    assert ended(program(text, tmp_path))[0] == 143


def test_a_terminal_that_is_gone_is_not_written_to(tmp_path: Path):
    """As when its window is closed: the terminal's writes fail from then on."""
    ours, theirs = os.openpty()
    text = TIDIES.format(grace=100, tidy='print("x" * 10**6, file=sys.stderr); open("tidied", "w").close()')
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=ignoring(),
    )
    os.close(theirs)
    said = b""
    while not said.endswith(b"\n"):  # a terminal hands a line on in parts; what it has not taken fails once it is gone
        said += os.read(ours, 100)
    assert said.strip() == b"ready"
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129 and (tmp_path / "tidied").exists()


def test_handlers_are_the_commands_alone(capsys: pytest.CaptureFixture):
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in watched]
    assert main(["trace", "nowhere"]) == 1
    assert [signal.getsignal(number) for number in watched] == before
