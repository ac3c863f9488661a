"""How often an actor may be started again, and how long to wait before it is."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from s2l_ray.errors import ActorLostError

LONGEST_BACKOFF_S = 60.0
FREE_RESTARTS = 1
"""Restarts within the window that wait for nothing: a process that is killed once has nothing to recover from."""


class RestartBudget:
    """Counts the restarts of every actor, in a sliding window of time.

    Args:
        max_restarts: recovery.max_restarts, of one actor within the window.
        window_s: recovery.window_s.
        backoff_s: recovery.backoff_s; doubled with every further restart, up to LONGEST_BACKOFF_S.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self, max_restarts: int, window_s: float, backoff_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_restarts, self._window_s, self._backoff_s, self._clock = max_restarts, window_s, backoff_s, clock
        self._restarts: dict[str, list[float]] = defaultdict(list)

    def spend(self, name: str, cause: str, log: str = "") -> float:
        """Take one restart of an actor.

        Args:
            name: of the actor, such as "explorer engine 1".
            cause: why it died.
            log: the end of its log, for the error.

        Returns:
            Seconds to wait before it is started.

        Raises:
            ActorLostError: it has had all the restarts that it may have.
        """
        now = self._clock()
        recent = [then for then in self._restarts[name] if now - then < self._window_s]
        if len(recent) >= self._max_restarts:
            raise ActorLostError(f"{name} is gone{self._history(len(recent))}. {cause} {log}".rstrip())
        self._restarts[name] = [*recent, now]
        backing_off = len(recent) - FREE_RESTARTS
        return 0.0 if backing_off < 0 else min(self._backoff_s * 2**backing_off, LONGEST_BACKOFF_S)

    def _history(self, restarts: int) -> str:
        if not self._max_restarts:
            return " and recovery.max_restarts is 0"
        return (
            f" after {restarts} restarts within {self._window_s:.0f} s, as many as recovery.max_restarts allows "
            "(recovery.window_s)"
        )
