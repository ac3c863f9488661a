"""Processes that are left by one that was killed."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from s2l_ray.machine.processes import MARK, kill_orphans, mark
from tests.support.patience import until

STARTER = """
import os, subprocess, sys
from s2l_ray.machine.processes import mark
left = subprocess.Popen(["sleep", "900"], env=os.environ | mark(), stdout=subprocess.DEVNULL)
print(left.pid, flush=True)
sys.stdin.read()
"""
"""Starts a process with its mark, says which, and waits for the end of its input."""


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_what_a_killed_process_has_left_is_ended_and_nothing_else():
    words = [sys.executable, "-c", STARTER]
    starter = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ours = subprocess.Popen(["sleep", "900"], env=os.environ | mark())
    odd = subprocess.Popen(["sleep", "900"], env=os.environ | {MARK: "no process"})
    try:
        left = psutil.Process(int(starter.stdout.readline()))
        kill_orphans()
        assert not ended(left)
        starter.kill()
        starter.communicate()
        kill_orphans()
        until(lambda: ended(left))
        assert ours.poll() is None and odd.poll() is None
    finally:
        for process in (starter, ours, odd):
            process.kill()
            process.communicate()


def test_a_container_s_processes_are_not_taken_for_orphans():
    """Its ids are of its own namespace: the mark of a process in it may name an id that does not exist out here."""
    gone = subprocess.Popen(["true"])
    gone.communicate()
    words = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this machine allows no PID namespaces")
    script = f"export {MARK}={gone.pid}-1.00; sh -c 'echo ready; exec sleep 900'"
    inside = subprocess.Popen([*words, "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert inside.stdout.readline() == "ready\n"
        (shell,) = psutil.Process(inside.pid).children()
        sleeper = shell.children()[0] if shell.children() else shell
        assert sleeper.environ()[MARK] == f"{gone.pid}-1.00"
        kill_orphans()
        assert not ended(sleeper) and inside.poll() is None
    finally:
        inside.kill()
        inside.communicate()
