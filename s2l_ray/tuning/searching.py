"""Where the trials of a study come from: Tune's search algorithm, with samples that are drawn or suggested."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.tune.experiment import Experiment, Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.search import SearchAlgorithm

from s2l_ray import errors
from s2l_ray.config import Config
from s2l_ray.tuning.space import Values

NOT_MENDED = ("ConfigError", "DataError", "ModelError", "BankError", "PlacementError", "GroupError")
"""Errors that the same trial would have again."""
RAISED = re.compile(r"^(?:s2l_ray\.errors\.)?(\w+Error): ", re.MULTILINE)


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


class Configured(Protocol):
    """Makes a trial's configuration of its values."""

    def __call__(self, number: int, values: Values) -> Config:
        """Raises ConfigError if they cannot go together."""


class StudyTrials(SearchAlgorithm):  # type: ignore[misc]  # Ray has no types
    """Gives Tune the trials of a study, each with its number as id.

    It keeps no state: what is still to be done follows from the trials that there are, also after a restore.

    Args:
        name: of the study.
        total: number of trials.
        source: their values.
        configured: their configurations.
        at_once: how many unfinished trials there may be.
    """

    def __init__(self, name: str, total: int, source: Source, configured: Configured, at_once: int) -> None:
        self.trials: Sequence[Trial] = ()
        """All trials that there are. `Steward` keeps it up to date."""
        self._name, self._total, self._source, self._configured = name, total, source, configured
        self._at_once = at_once
        self._spec: dict[str, Any] = {}
        self._parser = _make_parser()

    @property
    def total_samples(self) -> int:
        """Number of trials."""
        return self._total

    def add_configurations(self, experiments: Any) -> None:
        """Tune calls this for a new study only; see `adopt`."""

    def adopt(self, experiment: Experiment) -> None:
        """Take the settings of an experiment for all trials that are still to come."""
        self._spec = experiment.spec

    def is_finished(self) -> bool:
        """Whether all trials have been given to Tune."""
        return self._finished or len(self.trials) >= self._total

    def next_trial(self) -> Trial | None:
        """The next trial, if one more may run."""
        if self.is_finished() or sum(not trial.is_finished() for trial in self.trials) >= self._at_once:
            return None
        number = 1 + len(self.trials)
        values = self._source.next(number, self.trials)
        config = self._configured(number, values)
        return _create_trial_from_spec(
            {**self._spec, "config": config.model_dump(mode="json")},
            self._parser,
            evaluated_params=values,
            trial_id=trial_id(number),
        )


def trial_id(number: int) -> str:
    """Tune's id of a trial, such as 00003."""
    return f"{number:05d}"


class StudyTrial(Trial):  # type: ignore[misc]  # Ray has no types
    """A trial that is not tried again where it would fail in the same way."""

    def handle_error(self, exc: BaseException | None = None) -> None:
        """Take note of a failure; if it would happen again, it is the last one."""
        super().handle_error(exc)
        if exc is not None and is_not_mended(exc):
            self.max_failures = 0


def is_not_mended(error: BaseException) -> bool:
    """Whether a trial that raised this in a Ray actor would do so again."""
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, errors.S2LError):
        return type(error.cause).__name__ in NOT_MENDED
    raised = RAISED.findall(str(error))  # of an error in the actor's constructor Ray keeps the text only
    return bool(raised) and raised[-1] in NOT_MENDED
