"""Trials that Tune restores are a study's, with what may have changed since they were kept.

Tune makes plain trials of those in its state, and plans each of them when it takes it in. An impossible one would end
that midway, since what it raises is caught by a `StudyTrial` alone: the trials after it would be lost, and Tune would
begin others with their ids. And a trial is planned for the part of the cluster that trials have now.

Tune names the files of its state after the local time of a start, and reads those with the largest names. After a
change of the time zone, or of the clock, these would be an older start's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray.tune import ResumeConfig
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from s2l_ray.tuning.searching import StudyTrial, StudyTrials


@contextlib.contextmanager
def restoring_study_trials(search: StudyTrials) -> Iterator[None]:
    """Within this context the trials that Tune restores are `StudyTrial`s, which `search` has renewed.

    And Tune's new state gets a larger name than the one that is restored, and `search` is told why Tune could not
    restore all of it.
    """
    before = TuneController._restore_trials, TuneController.__setstate__, TuneController.resume

    def restore(self: TuneController, experiment_state: dict[str, Any]) -> list[Trial]:
        trials: list[Trial] = before[0](self, experiment_state)
        for trial in trials:
            trial.__class__ = StudyTrial
        search.renew(trials)
        return trials

    def set_state(self: TuneController, state: dict[str, Any]) -> None:
        restored = state["_session_str"]
        before[1](self, state)
        self._session_str = max(self._session_str, f"{restored}_")

    def resume(self: TuneController, resume_config: ResumeConfig) -> None:
        try:
            before[2](self, resume_config)
        except Exception as error:  # which Tune logs, to go on with what it has read so far
            search.not_restored = error
            raise

    changed = restore, set_state, resume
    TuneController._restore_trials, TuneController.__setstate__, TuneController.resume = changed
    try:
        yield
    finally:
        TuneController._restore_trials, TuneController.__setstate__, TuneController.resume = before
