"""What Tune's driver tells of the trials of a study, as outcomes: for the live table, MLflow and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from s2l_ray.kinds import TrialEvent, TrialStatus
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.failure import why_failed
from s2l_ray.tuning.measured import measured_after, step_of
from s2l_ray.tuning.outcomes import Exploit, TrialOutcome

Listener = Callable[[TrialEvent, TrialOutcome], None]
"""Told of an event and of the trial after it."""


class StudyObserver(Callback):  # type: ignore[misc]  # Ray has no types
    """A callback of Tune: `Tuner(..., run_config=RunConfig(callbacks=[observer]))`.

    Tune pickles its callbacks into tuner.pkl: what comes out of there has the outcomes and no listeners. Tune also
    keeps its state with the experiment's (`get_state`), so that a study that is resumed has the outcomes of before.

    Args:
        about: the study.
        listeners: each is called in Tune's loop, and must return at once.
    """

    def __init__(self, about: StudyAbout, *listeners: Listener) -> None:
        self.about = about
        self._listeners = listeners
        self._outcomes: dict[str, TrialOutcome] = {}
        self._configs: dict[str, Any] = {}

    @property
    def outcomes(self) -> list[TrialOutcome]:
        """The trials so far, in the order of their names."""
        return sorted(self._outcomes.values(), key=lambda outcome: outcome.name)

    # ---- Callback ---------------------------------------------------------------------------------------------------

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Take in what Tune has no event for."""
        self._look_at(trials)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Take in what Tune has no event for."""
        self._look_at(trials)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Its actor is there: it begins, or goes on."""
        self._look_at(trials)
        self._change("started", trial, status="running")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """It did a step."""
        outcome = self._of(trial)
        self._change("step", trial, status="running", **measured(self.about, outcome, result))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It did its steps, or the scheduler has ended it: then it is told so while its actor is still there."""
        status: TrialStatus = "finished" if self._of(trial).has_done_all else "pruned"
        actor = trial.temporary_state.ray_actor
        if status == "pruned" and (told := getattr(actor, "mark_pruned", None)) is not None:
            # Before Tune's call of its stop(), and an actor's calls are done in their order: so one process alone
            # writes how the trial's MLflow run ended.
            told.remote()
        self._change("ended", trial, status=status)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It failed, and is tried again."""
        failures = trial.num_failures
        self._change("failed", trial, status="waiting", error=why_failed(trial), failures=failures)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It failed for good."""
        failures = trial.num_failures
        self._change("ended", trial, status="failed", error=why_failed(trial), failures=failures)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Whatever has begun and is not over was stopped."""
        self._look_at(trials)
        for trial in trials:
            outcome = self._of(trial)
            if not outcome.is_over and (outcome.status != "waiting" or outcome.step):
                self._change("ended", trial, status="stopped")

    def get_state(self) -> dict[str, Any]:
        """The outcomes as JSON values."""
        return {"outcomes": {key: outcome.to_json() for key, outcome in self._outcomes.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over the outcomes that `get_state` gave."""
        self._outcomes = {key: TrialOutcome.from_json(row) for key, row in state["outcomes"].items()}
        for outcome in self._outcomes.values():
            self._tell("restored", outcome)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_listeners": (), "_configs": {}}

    # ---- trials -----------------------------------------------------------------------------------------------------

    def _look_at(self, trials: Sequence[Trial]) -> None:
        """Compare all trials with what is known of them: new ones, pauses, exploits, and ends that have no event."""
        for trial in trials:
            outcome = self._of(trial)
            if trial.config is not self._configs.get(trial.trial_id):
                self._configs[trial.trial_id] = trial.config
                self._take_values(trial, outcome)
            self._take_status(trial)

    def _take_values(self, trial: Trial, outcome: TrialOutcome) -> None:
        """A trial's values are new, or were changed; if they came with the checkpoint of another, by an exploit."""
        values = values_of(self.about, trial)
        latest = trial.latest_checkpoint_result
        donor = PurePosixPath(latest.checkpoint.path).parent.name if latest else trial.storage.trial_dir_name
        if donor == trial.storage.trial_dir_name:
            self._set(trial, values=values)
            return
        pairs = {key: (outcome.values.get(key), value) for key, value in values.items()}
        exploit = Exploit(
            step=step_of(latest.metrics),
            own_step=outcome.step,
            donor=next((o.name for o in self._outcomes.values() if o.directory_name == donor), donor),
            changed={key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        )
        if exploit.is_in(outcome.exploits):  # seen before the study was resumed
            self._set(trial, values=values)
        else:
            self._change("exploited", trial, values=values, exploits=(*outcome.exploits, exploit))

    def _take_status(self, trial: Trial) -> None:
        outcome, last = self._of(trial), trial.run_metadata.last_result
        if trial.status == Trial.TERMINATED and step_of(last) > outcome.step:  # found finished, see `restoring`
            outcome = self._set(trial, status="running", **measured(self.about, outcome, last))
        if outcome.is_over and trial.status in (Trial.TERMINATED, Trial.ERROR):
            return
        if trial.status == Trial.TERMINATED:
            done: TrialStatus = "finished" if outcome.has_done_all else "pruned" if last.get("done") else "stopped"
            self._change("ended", trial, status=done)
        elif trial.status == Trial.ERROR:
            self._change("ended", trial, status="failed", error=why_failed(trial), failures=trial.num_failures)
        elif trial.status == Trial.PAUSED and outcome.step:
            if outcome.status != "paused":
                self._change("paused", trial, status="paused")
        elif trial.status == Trial.PENDING and trial.storage.trial_dir_name:  # Tune has asked for its actor
            if outcome.status == "paused":  # its engines may be kept: soon it goes on, which is said
                self._set(trial, status="starting")
            elif outcome.status != "starting":
                self._change("starting", trial, status="starting")
        elif trial.status != Trial.RUNNING and outcome.status != "waiting":  # pbt pauses also what has not begun
            self._set(trial, status="waiting")

    def _of(self, trial: Trial) -> TrialOutcome:
        if trial.trial_id not in self._outcomes:
            steps = _at(trial.config, "schedule.steps") or self.about.steps
            self._outcomes[trial.trial_id] = TrialOutcome(
                name=str(trial),
                values=values_of(self.about, trial),
                steps=steps,
                directory=trial.path if trial.storage.trial_dir_name else "",
            )
            self._configs[trial.trial_id] = trial.config
        return self._outcomes[trial.trial_id]

    def _set(self, trial: Trial, **fields: Any) -> TrialOutcome:
        self._outcomes[trial.trial_id] = outcome = replace(self._of(trial), **fields)
        return outcome

    def _change(self, event: TrialEvent, trial: Trial, **fields: Any) -> None:
        self._tell(event, self._set(trial, **fields))

    def _tell(self, event: TrialEvent, outcome: TrialOutcome) -> None:
        for listener in self._listeners:
            listener(event, outcome)


def values_of(about: StudyAbout, trial: Trial) -> dict[str, Any]:
    """The values of a trial for the keys that its study varies, as JSON values."""
    return {key: _plain(_at(trial.config, key)) for key in about.keys}


def _at(config: Any, key: str) -> Any:
    """What a nested configuration has for a dotted key: a value, or a section; None if there is no such key."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def measured(about: StudyAbout, outcome: TrialOutcome, result: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an outcome that a result changes.

    An evaluation is one measurement, however many results it is carried on in.
    """
    step, metric = step_of(result), result.get(about.metric)
    fields = {
        "step": step,
        "seconds": outcome.seconds + result.get("time_this_iter_s", 0.0),
        "directory": result.get("run_dir") or outcome.directory,
        "mlflow_run_id": result.get("mlflow_run_id"),
        "error": None,
    }
    if metric is None or not math.isfinite(metric):
        return fields
    at = measured_after(about.metric, result)
    low, high = result.get(f"{about.metric}_low"), result.get(f"{about.metric}_high")
    interval = None if low is None or high is None else (float(low), float(high))
    history = dict(outcome.history)
    if not (at in history and outcome.exploits and at <= outcome.exploits[-1].step):  # else it is the donor's
        history[at] = float(metric)
    return fields | {
        "metric": float(metric),
        "metric_step": at,
        "interval": interval,
        "interval_before": interval if at == 0 else outcome.interval_before,
        "history": tuple(sorted(history.items())),
    }


def _plain(value: Any) -> Any:
    """A value that a search algorithm may have as numpy's scalar, as Python's."""
    return value.item() if hasattr(value, "item") else value
