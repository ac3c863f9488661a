"""Trials that Tune restores are a study's, with what may have changed since they were kept.

Tune makes plain trials of those in its state, and plans each of them when it takes it in. An impossible one would end
that midway, since what it raises is caught by a `StudyTrial` alone: the trials after it would be lost, and Tune would
begin others with their ids. And a trial is planned for the part of the cluster that trials have now.

Tune names the files of its state after the local time of a start, and reads those with the largest names. After a
change of the time zone, or of the clock, these would be an older start's.

A study that is stopped just when a trial ends may leave a run that is finished, of whose last step Tune was not told.
Tune would start the trial's engines again, for the evaluation that the run has done already.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from ray.tune import ResumeConfig
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from s2l_ray.machine.reading import MISREAD
from s2l_ray.run.mirror import SUMMARY
from s2l_ray.trials.results import result_of_finished
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
            _take_if_finished(trial)
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


def _take_if_finished(trial: Trial) -> None:
    """A trial is over whose run has got to its end: the summary in its directory has what Tune was not told.

    One with a mirror of its own is not, since the mirror may lack the end of the run, which then is copied.
    """
    if trial.is_finished() or (trial.config.get("checkpoint") or {}).get("mirror") is not None:
        return
    storage = trial.storage
    try:
        with storage.storage_filesystem.open_input_stream(f"{storage.trial_fs_path}/{SUMMARY}") as file:
            summary = json.loads(file.read())
        result = result_of_finished(summary)
        seconds = float(summary["steps"][-1]["seconds"]["total"])
    except (OSError, *MISREAD):  # there is none, or the run writes it again
        return
    if len(summary["steps"]) < trial.config["schedule"]["steps"]:
        return
    tunes = {"training_iteration": result["step"], "time_this_iter_s": seconds}
    trial.update_last_result(trial.run_metadata.last_result | result | tunes)
    trial.set_status(Trial.TERMINATED)
