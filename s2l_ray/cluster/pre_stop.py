"""The preStop hook of the pods: when a pod is deleted, its run ends well before Ray does.

    python -m s2l_ray.cluster.pre_stop head 60
    python -m s2l_ray.cluster.pre_stop worker 60

On the head it sends SIGTERM to the drivers and waits until they are gone: each ends its MLflow run and stops its
actors. On a worker it waits until no actor is left, so that a run which the head ends at the same time is not told of
lost actors first. Both waits are bounded; the pod ends in any case.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.2
SEEN_S = 5.0
"""Seconds that Ray stays after a driver, for the operator, which asks every 3 s, to see that the job failed: then it
tries again on a new cluster. Else it looks for the lost head, and gives up for good if no other is there in 300 s."""
ACTORS = ("Bank", "Explorer", "Learner", "Meter", "Scheduler", "TrainerRank", "Verifier")
"""Actors of a run; Ray gives their processes the titles `ray::Bank`, `ray::Bank.append` and so on."""


def main(arguments: list[str]) -> int:
    """Run the hook: `head` or `worker`, and the seconds that it may take."""
    role, seconds = arguments[0], float(arguments[1])
    return end(drivers, seconds, SEEN_S) if role == "head" else wait_until_none(actors, seconds)


def end(find: Callable[[], list[int]], seconds: float, seen_s: float) -> int:
    """Send SIGTERM to processes, wait for them to end, and `seen_s` longer if there were any.

    Returns:
        As `wait_until_none`.
    """
    told = find()
    for process in told:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    status = wait_until_none(find, seconds)
    if told:
        time.sleep(seen_s)
    return status


def wait_until_none(find: Callable[[], list[int]], seconds: float) -> int:
    """Wait for processes to end. Returns 0, or 1 if some are left after `seconds`."""
    deadline = time.monotonic() + seconds
    while find():
        if time.monotonic() > deadline:
            return 1
        time.sleep(POLL_S)
    return 0


def drivers() -> list[int]:
    """Processes of this pod that are a run's driver: Python with the command `s2l`."""
    return [process for process, words in _commands() if is_driver(words)]


def is_driver(words: list[str]) -> bool:
    """Whether a command line is Python's, of `s2l ...` or `-m s2l_ray ...`."""
    if len(words) < 3 or not Path(words[0]).name.startswith("python"):
        return False
    return Path(words[1]).name == "s2l" or words[1:3] == ["-m", "s2l_ray"]


def actors() -> list[int]:
    """Processes of this pod that are actors of a run."""
    return [process for process, words in _commands() if is_actor(words)]


def is_actor(words: list[str]) -> bool:
    """Whether a process has the title of an actor of a run. Ray's own processes begin with `ray::` too."""
    title = words[0]
    return title.startswith("ray::") and title.removeprefix("ray::").partition(".")[0] in ACTORS


def _commands() -> list[tuple[int, list[str]]]:
    """Process id and command line of every process but this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[0]:
                found.append((int(folder.name), words))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
