"""What a study does in Tune's loop: it keeps the scheduler's state, and ends the loop when it is told to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from s2l_ray.errors import StorageError
from s2l_ray.machine.ending import is_told
from s2l_ray.recovery.causes import short_cause
from s2l_ray.tuning.searching import StudyTrials


class Steward(Callback):  # type: ignore[misc]  # Ray has no types
    """A callback of Tune.

    Args:
        search: told of the trials that there are.
        scheduler: whose state is kept with the study's, since Tune does not.
        resumes: whether Tune has to find trials of before.
        check: raises if the study's place is no longer this process's.
    """

    def __init__(
        self, search: StudyTrials, scheduler: TrialScheduler, *, resumes: bool, check: Callable[[], None]
    ) -> None:
        self._search, self._scheduler, self._resumes, self._check = search, scheduler, resumes, check
        self._ended = False

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Before Tune asks for new trials.

        Raises:
            StorageError: Tune could not read its state of before, or not all of it. It would begin trials anew.
            ConfigError: another driver has taken the study over.
        """
        self._check()
        if self._resumes and (self._search.not_restored is not None or not trials):
            reason = short_cause(self._search.not_restored) if self._search.not_restored else "it holds no trial"
            raise StorageError(
                "Ray Tune cannot read all of the study's trials from its own state (experiment_state-*.json, "
                f"callback-states-*.pkl): {reason}. tune.log says more. Put copies of the files back, or move them "
                "away: then each trial goes on from its own last checkpoint, and which ones were pruned is forgotten"
            )
        self._search.trials = trials
        if self._resumes:
            self._resumes = False
            self._search.allow_failures(trials)
        if is_told() and not self._ended:
            self._ended = True
            signal.raise_signal(signal.SIGUSR1)  # Tune's way to be told: it ends the loop and saves its state

    def get_state(self) -> dict[str, Any] | None:
        """The scheduler's state, if it has one."""
        return self._scheduler.get_state() if hasattr(self._scheduler, "get_state") else None

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Give the scheduler its state back, before Tune adds the trials."""
        if hasattr(self._scheduler, "set_state"):
            self._scheduler.set_state(state)
