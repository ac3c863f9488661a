"""A trial whose actor is being set up keeps that actor.

Tune (reuse_actors) gives such a trial the actor of one that has just ended, and tells its own to stop. An actor stops
when it has been set up, not before. By then it has waited for the run directory until the trial was over, has opened
the run in MLflow again and has started engines, all for nothing; and how it ended is the last that MLflow learns of the
trial.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial


@contextlib.contextmanager
def keeping_own_actors() -> Iterator[None]:
    """Within this context Tune gives a trial another one's actor only before its own has begun."""
    before = TuneController._maybe_reuse_cached_actor

    def reuse(self: TuneController, trial: Trial) -> bool:
        own = self._trial_to_actor.get(trial)
        if own is not None and trial not in self._resetting_trials and self._actor_manager.is_actor_started(own):
            return False
        return bool(before(self, trial))

    TuneController._maybe_reuse_cached_actor = reuse
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = before
