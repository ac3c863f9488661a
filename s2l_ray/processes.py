"""Child processes that do not outlive their parent."""

from __future__ import annotations

import os
import threading
import time

POLL_SECONDS = 0.5
ORPHANED_EXIT_CODE = 113
"""Exit status of a child that ended itself because its parent had died."""


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
