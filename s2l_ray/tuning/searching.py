"""Where the trials of a study come from: Tune's search algorithm, with samples that are drawn or suggested."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Experiment, Trial
from ray.tune.search import SearchAlgorithm

from s2l_ray import errors
from s2l_ray.tuning.place import FREE_OF_CONFIG
from s2l_ray.tuning.space import Values

NOT_MENDED = (
    *("ConfigError", "DataError", "ModelError", "BankError", "PlacementError", "GroupError"),
    *("BrokenVerifierError", "HealthError"),
)
"""Errors that the same trial would have again. A subclass is none of them unless it is named too."""
RAISED = re.compile(r"^(?:s2l_ray\.[\w.]+\.)?(\w+Error): ", re.MULTILINE)


PLAN_ANEW_S = 1.0
"""Bound on the wait for nodes, in seconds, where a trial that failed is planned anew."""
OF_TRIALS = ("checkpoint_config", "trial_name_creator", "trial_dirname_creator", "max_failures", "storage")
"""Settings of an experiment that are those of each trial."""


class Source(Protocol):
    """Values for trials, one after the other."""

    def next(self, number: int, trials: Sequence[Trial]) -> Values:
        """The values of the trial with this number.

        Args:
            number: from 1.
            trials: those before it, with their results so far.
        """


@dataclass(frozen=True)
class Drawn:
    """Values that are known before the study starts."""

    values: Sequence[Values]

    def next(self, number: int, trials: Sequence[Trial]) -> Values:
        """The values of the trial with this number."""
        return self.values[number - 1]


Configured = Callable[[int, Values], dict[str, Any]]
"""Makes the nested configuration of a trial, which may be impossible, of its number and values."""


class StudyTrials(SearchAlgorithm):  # type: ignore[misc]  # Ray has no types
    """Gives Tune the trials of a study, each with its number as id.

    It keeps no state: what is still to be done follows from the trials that there are, also after a restore.

    Args:
        name: of the study.
        total: number of trials.
        source: their values.
        configured: their configurations.
        at_once: how many unfinished trials there may be.
        keeps_actors: Tune ends the actor of a trial that pauses once the search is finished; then it is not finished
            before all trials are.
    """

    def __init__(
        self, name: str, total: int, source: Source, configured: Configured, at_once: int, *, keeps_actors: bool = False
    ) -> None:
        self.trials: Sequence[Trial] = ()
        """All trials that there are. `Steward` keeps it up to date."""
        self.not_restored: Exception | None = None
        """Why Tune could not restore all trials of before."""
        self._name, self._total, self._source, self._configured = name, total, source, configured
        self._at_once, self._keeps_actors = at_once, keeps_actors
        self._spec: dict[str, Any] = {}

    @property
    def total_samples(self) -> int:
        """Number of trials."""
        return self._total

    def add_configurations(self, experiments: Any) -> None:
        """Tune calls this for a new study only; see `adopt`."""

    def adopt(self, experiment: Experiment) -> None:
        """Take the settings of an experiment for all trials that are still to come."""
        self._spec = experiment.spec

    def renew(self, trials: Sequence[Trial]) -> None:
        """Give trials that Tune restores what may be another value since then: MLflow's run of the study, say."""
        for trial in trials:
            now = self._configured(int(trial.trial_id), trial.evaluated_params)
            trial.config |= {section: now[section] for section in FREE_OF_CONFIG}
            trial.invalidate_json_state()

    def allow_failures(self, trials: Sequence[Trial]) -> None:
        """Let trials that Tune has restored fail as often as the study says now.

        One that had failed for good and is tried again may fail as often as a new one.
        """
        for trial in trials:
            if not trial.is_finished() and 0 <= trial.max_failures < trial.num_failures:
                trial.run_metadata.num_failures = 0
            trial.max_failures = self._spec["max_failures"]
            trial.invalidate_json_state()

    def is_finished(self) -> bool:
        """Whether all trials have been given to Tune."""
        if self._keeps_actors and not all(trial.is_finished() for trial in self.trials):
            return False
        return self._finished or self._has_given_all

    @property
    def _has_given_all(self) -> bool:
        return len(self.trials) >= self._total

    def next_trial(self) -> Trial | None:
        """The next trial, if one more may run."""
        if self._has_given_all or sum(not trial.is_finished() for trial in self.trials) >= self._at_once:
            return None
        number = 1 + len(self.trials)
        values = self._source.next(number, self.trials)
        spec = {name: value for name, value in self._spec.items() if name in OF_TRIALS}
        trial = StudyTrial(
            self._spec["run"],
            config=self._configured(number, values),
            evaluated_params=values,
            trial_id=trial_id(number),
            **spec,
        )
        trial.init_local_path()  # Tune names the directory only when it starts the trial, which pbt may delay
        return trial


def trial_id(number: int) -> str:
    """Tune's id of a trial, such as 00003."""
    return f"{number:05d}"


class StudyTrial(Trial):  # type: ignore[misc]  # Ray has no types
    """A trial that is not tried again where it would fail in the same way, and fails at once where it is impossible."""

    config: dict[str, Any]

    def create_placement_group_factory(self) -> None:
        """Plan the trial, unless it is over. Tune calls this when it takes the trial in."""
        if self.is_finished():
            return
        try:
            super().create_placement_group_factory()
        except errors.S2LError as error:  # of values that Optuna has suggested; drawn ones are checked before
            self.fail(error)

    def fail(self, error: errors.S2LError) -> None:
        """Make it a trial that has failed for good before it began."""
        self.placement_group_factory = PlacementGroupFactory([{"CPU": 1}])  # never asked for
        self.init_local_path()
        self.max_failures = 0
        self.handle_error(error)
        self.set_status(Trial.ERROR)

    def handle_error(self, exc: BaseException | None = None) -> None:
        """Take note of a failure; if it would happen again, it is the last one. Else plan the trial anew.

        Nodes may have joined or left, and then it needs other bundles. While no plan fits those that are there, it
        waits for the room that it had.
        """
        super().handle_error(exc)
        if exc is not None and is_not_mended(exc):
            self.max_failures = 0
        if self.should_recover():
            self._plan_anew()

    def _plan_anew(self) -> None:
        given = self.config
        # Tune's loop does nothing else meanwhile, so that nodes which are not there are not waited for.
        self.config = given | {"cluster": {**(given.get("cluster") or {}), "start_timeout_s": PLAN_ANEW_S}}
        try:
            with suppress(errors.S2LError):
                super().create_placement_group_factory()
        finally:
            self.config = given


def is_not_mended(error: BaseException) -> bool:
    """Whether a trial that raised this in a Ray actor would do so again."""
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, errors.S2LError):
        return type(error.cause).__name__ in NOT_MENDED
    raised = RAISED.findall(str(error))  # of an error in the actor's constructor Ray keeps the text only
    return bool(raised) and raised[-1] in NOT_MENDED
