"""Child processes that neither outlive their parent nor leave processes behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

POLL_SECONDS = 0.5
END_TIMEOUT_S = 10.0
"""Bound in seconds on waiting for a supervised process and its descendants to end. SIGKILL takes milliseconds, but
a process that hangs in the kernel (a dead network drive) or belongs to another user may stay."""
ORPHANED_EXIT_CODE = 113
"""Exit status of a child that ended itself because its parent had died."""
MARK = "S2L_STARTED_BY"
"""Environment variable of the processes that end with the process that it names."""


def die_with_parent(parent: int | None = None) -> None:
    """End this process within about a second of its parent's death.

    A thread watches the parent's id. The kernel's parent-death signal is not used: it fires when the THREAD that made
    the child ends, and our children are made in threads that come and go.

    Args:
        parent: process id of the parent. Hand it over from the parent where you can: a parent that dies before this
            call is then noticed too. Default: the parent now.
    """
    expected = os.getppid() if parent is None else parent
    threading.Thread(target=_watch, args=(expected,), name="die-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(ORPHANED_EXIT_CODE)  # not sys.exit: the main thread may be inside a computation that never returns


def mark() -> dict[str, str]:
    """Environment for processes that `kill_marked` of this process ends, with all that descend from them."""
    return {MARK: f"{os.getpid()}-{psutil.Process().create_time():.2f}"}


def kill_orphans() -> None:
    """Kill every process that was started with the `mark` of a process that is no longer there.

    SIGKILL leaves nobody who could call `kill_marked`. The processes of other PID namespaces are not looked at, since
    their marks name the ids of their own namespace.
    """
    namespace = _pid_namespace("self")

    def orphaned(process: psutil.Process) -> bool:
        starter = process.environ().get(MARK, "").partition("-")[0]
        return starter.isdecimal() and not psutil.pid_exists(int(starter)) and _pid_namespace(process.pid) == namespace

    _kill_where(orphaned)


def kill_marked() -> None:
    """Kill every process that was started with this process's `mark`, also those whose parents are gone.

    Ray leaves processes behind that it was just starting when it was ended: they wait for minutes for their raylet.
    """
    kill_with_environment(MARK, mark()[MARK])


def kill_with_environment(variable: str, value: str) -> None:
    """Kill every other process of this machine that has this value of an environment variable, stopped ones too.

    Returns after END_TIMEOUT_S at the latest.
    """
    _kill_where(lambda process: process.environ().get(variable) == value)


def _kill_where(matches: Callable[[psutil.Process], bool]) -> None:
    deadline = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < deadline and (left := _others(matches)):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)


def _others(matches: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it has ended, or is another user's
            if process.pid != os.getpid() and matches(process):
                found.append(process)
    return found


def _pid_namespace(pid: int | str) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")


def supervised(parent: int, held: Iterable[int]) -> None:
    """Fork: return in the child, while this process from now on only watches over it. Linux only.

    When the child ends, when `parent` dies or when SIGTERM comes, the watching process kills the child and all that
    descends from it, in whatever process group or session, and exits with the child's status (128 + n for signal n).
    As a subreaper it inherits orphans, so that nothing gets away by forking twice either.

    Call it before any thread is started.

    Args:
        parent: process id of the parent, which passes it on: one that dies before this call is noticed too.
        held: file descriptors that only the child keeps.
    """
    watched, watcher = {signal.SIGTERM, signal.SIGCHLD}, os.getpid()
    for number in watched:
        signal.signal(number, signal.SIG_DFL)  # an ignored signal would be inherited
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child:
        for fd in held:
            os.close(fd)
        _watch_over(child, parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the watcher has one thread, so this is its death and not a thread's
    if os.getppid() != watcher:
        os._exit(ORPHANED_EXIT_CODE)


def end_supervised(process: subprocess.Popen[Any]) -> None:
    """End a process that called `supervised`, and its descendants. It must lead a session of its own.

    Returns after twice END_TIMEOUT_S at the latest.
    """
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    if process.returncode is None or process.returncode < 0:  # the watcher hangs or was killed: at least its session
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)


_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _watch_over(child: int, parent: int) -> NoReturn:
    statuses: dict[int, int] = {}
    while os.getppid() == parent and child not in statuses:
        caught = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, POLL_SECONDS)
        if caught is not None and caught.si_signo == signal.SIGTERM:
            break
        _reap(statuses)
    deadline = time.monotonic() + END_TIMEOUT_S / 2
    while _reap(statuses) and time.monotonic() < deadline:
        for pid in _children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)  # its children become ours, for the next round
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)
    code = os.waitstatus_to_exitcode(statuses[child]) if child in statuses else ORPHANED_EXIT_CODE
    os._exit(code if code >= 0 else 128 - code)


def _reap(statuses: dict[int, int]) -> bool:
    """Note the wait statuses of the children that have ended. Returns whether there are others."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if not pid:
            return True
        statuses[pid] = status


def _children() -> list[int]:
    """Ids of this process's children, zombies included. Not every kernel has /proc/PID/task/TID/children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended
                if int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(entry.name))
    return found
