"""Runs that another experiment has done: their arms are compared for another question, and nothing is run again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from s2l_ray.config import load_config
from s2l_ray.errors import ConfigError
from s2l_ray.experiments.arms import PlannedRun, runs_of, study_of
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.experiments.memory import Memory
from s2l_ray.run.identity import FREE_TO_CHANGE
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome, flat
from s2l_ray.tuning.place import StudyPlace

OUTCOMES = "runs.json"
"""The outcomes of the runs, in an experiment's directory: what it is compared again from."""
NAMED = 3
"""Runs that are named where several are missing."""


@dataclass(frozen=True)
class TakenRuns:
    """What an experiment is compared from."""

    outcomes: list[TrialOutcome]
    """By number, as if its own runs had done it."""
    confidence: float
    """Of the other experiment's intervals."""

    @property
    def facts(self) -> StudyFacts:
        """What they took, one run after the other."""
        return StudyFacts(sum(outcome.seconds for outcome in self.outcomes))


def taken_runs(file: ExperimentFile, overrides: Sequence[str]) -> TakenRuns:
    """For each run of an experiment the one of `file.runs_from` that computes the same.

    Keys that only say where and how fast it is computed may differ (`run.identity.FREE_TO_CHANGE`).

    Args:
        file: of the experiment; it has `runs_from`.
        overrides: `key=value` of the configuration.

    Raises:
        ConfigError: there is no such experiment, or it has no such run.
    """
    assert file.runs_from is not None
    place = StudyPlace.of(file.storage, file.runs_from)
    memory = Memory.read(place)
    if memory is None or not place.storage.exists(OUTCOMES):
        what = "no experiment" if memory is None else "an experiment of which no start has ended"
        raise ConfigError(f"runs_from: {place} holds {what}; run it first (s2l experiment {file.runs_from})")
    kept = json.loads(place.storage.read(OUTCOMES))
    other = ExperimentFile.model_validate(memory.experiment)
    by_number = {_number(found): found for found in map(TrialOutcome.from_json, kept["outcomes"])}
    theirs = _configurations(other, memory.overrides)
    taken, missing = [], []
    for run, configuration in _configurations(file, overrides):
        same = next((number.number for number, found in theirs if found == configuration), None)
        if same is None:
            missing.append(run.label)
        elif same in by_number:
            taken.append(replace(by_number[same], name=f"{file.name}_{run.number:05d}"))
    if missing:
        named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        raise ConfigError(
            f"runs_from: {place} has no run of the configuration of {named}. Give it such arms and seeds, or leave "
            "runs_from out to run them"
        )
    return TakenRuns(taken, kept["confidence"])


def _number(outcome: TrialOutcome) -> int:
    return int(outcome.name.rpartition("_")[2])


def _configurations(file: ExperimentFile, overrides: Sequence[str]) -> list[tuple[PlannedRun, dict[str, Any]]]:
    """Every run with those of its keys that say what is computed."""
    study = study_of(file, overrides)
    found = []
    for run, values in zip(runs_of(file), study.runs, strict=True):
        config = load_config(file.config, dict(study.config), list(overrides), dict(values))
        keys = flat(config.model_dump(mode="json"))
        found.append((run, {key: value for key, value in keys.items() if not _is_free(key)}))
    return found


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
