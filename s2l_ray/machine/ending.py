"""How a command ends on a signal: Ctrl-C (SIGINT), a batch system or `kill` (SIGTERM), a closed terminal (SIGHUP).

All three unwind the command in the same way, so that actors are stopped and files are complete. The exit status tells
which it was. Ctrl-C after that ends the command at once.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, ClassVar, NoReturn

from s2l_ray.machine.processes import kill_marked
from s2l_ray.machine.temporary import drop_short_names

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

GRACE_S = 25.0
"""Longest time for cleaning up, in seconds. Slurm and Kubernetes kill a process 30 s after SIGTERM."""
AGAIN_S = 1.0
"""Seconds within which signals count as one: `timeout` and batch systems signal a program and its group."""


class Ended(KeyboardInterrupt):
    """A signal ended the command."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)

    @property
    def status(self) -> int:
        """Exit status by the convention of shells: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.signal


@contextmanager
def ends_when_told() -> Iterator[None]:
    """Within this context the first signal raises `Ended` in the main thread, so that the command cleans up.

    SIGINT after that, or cleaning up for longer than GRACE_S, ends the process without it; a private Ray and its actors
    end with the process. Outside the main thread, where Python allows no signal handlers, this does nothing.

    SIGINT and SIGHUP stay ignored where they were ignored before, as in a background job of a script and under nohup.
    SIGTERM does not: it has no other purpose than to end a process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = _Ending.current = _Ending()
    watched = [signal.SIGTERM] + [
        number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, ending.tell) for number in watched}
    sys.unraisablehook = ending.note_dropped
    threading.Thread(target=ending.cut_off, name="cut-off", daemon=True).start()
    try:
        yield
    except BaseException as error:
        if ending.told and error is not ending.told:  # tidying up fails where, say, Ray was ended at the same time
            raise ending.told from error
        raise
    finally:
        ending.over()
        if not ending.told:  # else the process is about to end, and should not be disturbed in that either
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """A signal that comes within this context raises `Ended` at its end: what it begins is then known to be ended."""
    ending = _Ending.current
    if ending is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    ending.holds = True
    try:
        yield
    finally:
        ending.holds = False
        if ending.told:
            raise ending.told


@contextmanager
def parting_words(text: str) -> Iterator[None]:
    """Where a command that is told to end is ended within this context before it has tidied up, these lines are said.

    Else whoever presses Ctrl-C twice would not hear, for example, how to go on.
    """
    ending = _Ending.current
    if ending is None:
        yield
        return
    ending.parting_words = text
    try:
        yield
    finally:
        ending.parting_words = ""


def is_watching() -> bool:
    """Whether signals tell a command to end, see `ends_when_told`."""
    return _Ending.current is not None


def is_told() -> bool:
    """Whether a signal has told the command to end, be it `held` as yet."""
    return _Ending.current is not None and _Ending.current.told is not None


class _Ending:
    """Who has told the command to end, and what follows."""

    current: ClassVar[_Ending | None] = None
    """That of the command that is at work in this process."""

    def __init__(self) -> None:
        self.told: Ended | None = None
        self.holds = False
        """Whether what is told is raised later, see `held`."""
        self.parting_words = ""
        self._is_over = False
        self._known = threading.Event()
        self._dropped = threading.Event()
        self._again_at = 0.0
        self._hook = sys.unraisablehook

    def tell(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._dropped.is_set() and self.told:
            self._dropped.clear()
            raise self.told
        if self.told:
            # Ctrl-C again: somebody waits in vain. Who sends SIGTERM again may be someone else than before, as when a
            # job is stopped and then its pod deleted, and knows SIGKILL.
            if number == signal.SIGINT and time.monotonic() > self._again_at:
                self._leave(self.told)
            return
        self.told = Ended(number)
        self._again_at = time.monotonic() + AGAIN_S
        if number == signal.SIGHUP:
            _let_go_of_the_terminal()
        if not self._is_over:  # else this may be in the middle of `over`, which has a lock that this would wait for
            self._known.set()
        if not self.holds:
            raise self.told

    def note_dropped(self, unraisable: UnraisableHookArgs) -> None:
        """Python drops what is raised in a finaliser or a callback of the garbage collector: raise it again later."""
        if self.told and unraisable.exc_value is self.told:
            self._dropped.set()
        else:
            self._hook(unraisable)

    def cut_off(self) -> None:
        """In a thread of its own, from the start: none can be started safely inside a signal handler."""
        self._known.wait()
        if not self.told:
            return
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            time.sleep(min(0.1, GRACE_S))  # by then the finaliser is over
            if self._dropped.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, self.told.signal)
        self._leave(self.told, f"tidying up took more than {GRACE_S:g} s; ended without it\n")

    def _leave(self, told: Ended, said: str = "") -> NoReturn:
        with suppress(OSError):  # nobody reads any more
            os.write(2, (said + self.parting_words).encode())
        leave(told.status)

    def over(self) -> None:
        """The command is over."""
        self._is_over = True
        _Ending.current = None
        self._known.set()
        sys.unraisablehook = self._hook


def leave(status: int) -> NoReturn:
    """End this process, and the processes of a private Ray, without Python's own cleaning up.

    That takes seconds, and half a minute where Ray was ended at the same time. Output is not flushed: whoever reads it
    may have stopped.
    """
    drop_short_names()
    kill_marked()
    os._exit(status)


def _let_go_of_the_terminal() -> None:
    """It is gone: what is still written would be an error that hides the end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):  # a terminal that has hung up is no isatty any more
            os.dup2(nowhere, descriptor)
    os.close(nowhere)
