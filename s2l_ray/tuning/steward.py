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
from s2l_ray.tuning.searching import StudyTrials


class Steward(Callback):  # type: ignore[misc]  # Ray has no types
    """A callback of Tune.

    Args:
        search: told of the trials that there are.
        scheduler: whose state is kept with the study's, since Tune does not.
        resumes: whether Tune has to find trials of before.
        begun: how many those are, once Tune has given its callbacks their states.
    """

    def __init__(
        self, search: StudyTrials, scheduler: TrialScheduler, *, resumes: bool, begun: Callable[[], int]
    ) -> None:
        self._search, self._scheduler, self._resumes, self._begun = search, scheduler, resumes, begun
        self._ended = False

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Before Tune asks for new trials.

        Raises:
            StorageError: Tune could not read its state of before, or not all of it. It would begin trials anew.
        """
        if self._resumes and len(trials) < max(1, self._begun()):
            raise StorageError(
                f"Ray Tune has read {len(trials)} of the study's trials from its own state (experiment_state-*.json, "
                "callback-states-*.pkl); the reason is in tune.log. Put copies of the files back, or move them away: "
                "then each trial goes on from its own last checkpoint, and which ones were pruned is forgotten"
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
