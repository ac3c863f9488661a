"""How a command ends on a signal: Ctrl-C (SIGINT), a batch system or `kill` (SIGTERM), a closed terminal (SIGHUP).

All three unwind the command in the same way, so that actors are stopped and files are complete. The exit status tells
which it was.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_S = 25.0
"""Longest time for cleaning up, in seconds. Slurm and Kubernetes kill a process 30 s after SIGTERM."""


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
    """Within this context the first signal raises `Ended` in the main thread; further signals are ignored.

    If cleaning up then takes longer than GRACE_S, the process exits without finishing it; a private Ray and its actors
    end with the process. Outside the main thread, where Python allows no signal handlers, this does nothing.

    SIGINT and SIGHUP stay ignored where they were ignored before, as in a background job of a script and under nohup.
    SIGTERM does not: it has no other purpose than to end a process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[Ended] = []
    first = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if told:
            return
        told.append(Ended(number))
        if number == signal.SIGHUP:
            _let_go_of_the_terminal()
        first.set()
        raise told[0]

    def cut_off() -> None:
        # Waits from the start: a thread cannot be started safely inside a signal handler.
        first.wait()
        if not told:
            return
        time.sleep(GRACE_S)
        os.write(2, f"tidying up took more than {GRACE_S:g} s; ended without it\n".encode())
        os._exit(told[0].status)

    watched = [signal.SIGTERM] + [
        number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, end) for number in watched}
    threading.Thread(target=cut_off, name="cut-off", daemon=True).start()
    try:
        yield
    except BaseException as error:
        if told and error is not told[0]:  # tidying up fails where, say, Ray was ended at the same time
            raise told[0] from error
        raise
    finally:
        first.set()
        if not told:  # else the process is about to end, and should not be disturbed in that either
            for number, handler in before.items():
                signal.signal(number, handler)


def _let_go_of_the_terminal() -> None:
    """It is gone: what is still written would be an error that hides the end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):  # a terminal that has hung up is no isatty any more
            os.dup2(nowhere, descriptor)
    os.close(nowhere)
