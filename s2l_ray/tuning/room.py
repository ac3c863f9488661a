"""Whether a study that waits for room in the cluster has waited too long: Tune would wait for ever, without a word."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from s2l_ray.errors import PlacementError
from s2l_ray.placement.node_check import describe, pick
from s2l_ray.ray_bridge import groups_of_this_job

LOOK_S = 10.0
"""Seconds between two looks, while no trial runs."""
SAY_S = 60.0
"""Seconds until it is said what is waited for, and between two such notes."""


class Room(Callback):  # type: ignore[misc]  # Ray has no types
    """A callback of Tune.

    Args:
        timeout_s: longest wait for room while no trial runs (cluster.start_timeout_s).
        note: tells the user.
        clock: seconds.
    """

    def __init__(
        self, timeout_s: float, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout_s, self._note, self._clock = timeout_s, note, clock
        self._since = self._looked = self._said = clock()

    def on_step_end(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Look, if it is time to.

        Raises:
            PlacementError: no trial runs, and there has been no room for one since `timeout_s` s.
        """
        now = self._clock()
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self._since = self._looked = self._said = now
        elif now - self._looked > LOOK_S:
            self._looked = now
            self._look(waiting[0], now)

    def _look(self, trial: Trial, now: float) -> None:
        wanted = trial.placement_group_factory.bundles
        if wanted in groups_of_this_job():  # a trial is being set up in it; other jobs may have groups like it
            self._since = now
            return
        waited, free = now - self._since, pick(ray.available_resources())
        if waited > self._timeout_s:
            raise PlacementError(
                f"waited {waited:.0f} s for room for a trial ({describe(wanted)}); free now: {free}. Free resources, "
                "add nodes, or raise cluster.start_timeout_s, and resume the study"
            )
        if now - self._said > SAY_S:
            self._said = now
            self._note(f"waited {waited:.0f} of {self._timeout_s:.0f} s for {describe(wanted)}; free now: {free}")
