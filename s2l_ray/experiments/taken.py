"""Runs that were done elsewhere: their arms are compared for another question, and nothing is run again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from s2l_ray.errors import ConfigError
from s2l_ray.experiments.arms import runs_of
from s2l_ray.experiments.configurations import Configuration, configurations_of
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.experiments.measured import MeasuredRun, measured_runs
from s2l_ray.experiments.memory import Memory
from s2l_ray.experiments.runs_csv import RUNS
from s2l_ray.experiments.runs_from_csv import runs_from_csv
from s2l_ray.experiments.wording import listed
from s2l_ray.machine.places import existing_output
from s2l_ray.machine.reading import misread
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome
from s2l_ray.tuning.place import StudyPlace

OUTCOMES = "runs.json"
"""The outcomes of the runs, in an experiment's directory: what it is compared again from."""


@dataclass(frozen=True)
class TakenRuns:
    """What an experiment is compared from."""

    runs: Sequence[MeasuredRun]
    """In its order, as if it had run them."""
    confidence: float
    """Of the intervals."""
    facts: StudyFacts
    """What they took, one run after the other."""


def taken_runs(file: ExperimentFile, configurations: Sequence[Configuration]) -> TakenRuns:
    """For each run of an experiment the one of `file.runs_from` that computes the same.

    Keys that only say where and how fast it is computed may differ (`run.identity.FREE_TO_CHANGE`).

    Args:
        file: of the experiment; it has `runs_from`.
        configurations: of its runs.

    Raises:
        ConfigError: there is no such experiment or file, it has no such run, or what it has cannot be used; or two of
            this experiment's arms could not be told apart.
    """
    for (one, ours), (other, theirs) in itertools.combinations(zip(runs_of(file), configurations, strict=True), 2):
        if ours == theirs:
            raise ConfigError(
                f"runs_from: {one.label} and {other.label} differ only in where and how fast they are computed, by "
                "which runs are not told apart; leave runs_from out, or one of the arms"
            )
    files = file.csv_files or _files_of(file)
    if not files:
        return _of_experiment(file, configurations)
    own = StudyPlace.of(file.storage, file.name).directory / RUNS
    if own.exists() and any(existing_output(name).resolve() == own.resolve() for name in files):
        raise ConfigError(
            f"runs_from: {own} is the file that this experiment writes itself; give it another name "
            "(experiment.name=...), or leave runs_from out"
        )
    runs = runs_from_csv(files, file, configurations)
    seconds = sum(run.spent.seconds for run in runs if run.spent)
    return TakenRuns(runs, configurations[0]["evaluation.confidence"], StudyFacts(seconds))


def _files_of(file: ExperimentFile) -> tuple[str, ...]:
    """The file of an experiment that has run nothing itself, since it was compared from other runs."""
    assert isinstance(file.runs_from, str)
    place = StudyPlace.of(file.storage, file.runs_from)
    runs = place.directory / RUNS
    return () if place.storage.exists(OUTCOMES) or not runs.is_file() else (str(runs),)


def _of_experiment(file: ExperimentFile, configurations: Sequence[Configuration]) -> TakenRuns:
    assert isinstance(file.runs_from, str)
    place = StudyPlace.of(file.storage, file.runs_from)
    memory = Memory.read(place)
    if memory is None or not place.storage.exists(OUTCOMES):
        what = "no experiment" if memory is None else "an experiment of which no start has ended"
        raise ConfigError(f"runs_from: {place} holds {what}; run it first (s2l experiment {file.runs_from})")
    confidence, outcomes = kept_outcomes(place)
    by_number = {found.number: found for found in outcomes}
    theirs = configurations_of(memory.file(place), memory.overrides)
    taken, missing = [], []
    for run, configuration in zip(runs_of(file), configurations, strict=True):
        number = next((number for number, found in enumerate(theirs, 1) if found == configuration), None)
        if number is None:
            missing.append(run.label)
        elif number in by_number:
            taken.append(replace(by_number[number], name=f"{file.name}_{run.number:05d}"))
    if missing:
        raise ConfigError(
            f"runs_from: {place} has no run of the configuration of {listed(missing)}. Give it such arms and seeds, or "
            "leave runs_from out to run them"
        )
    facts = StudyFacts(sum(outcome.seconds for outcome in taken))
    return TakenRuns(measured_runs(runs_of(file), taken, place.storage), confidence, facts)


def kept_outcomes(place: StudyPlace) -> tuple[float, list[TrialOutcome]]:
    """What an experiment remembers of its runs: the confidence of intervals, and how each run stands.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        kept = json.loads(place.storage.read(OUTCOMES))
        return float(kept["confidence"]), [TrialOutcome.from_json(row) for row in kept["outcomes"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{place}/{OUTCOMES} is damaged ({misread(error)}); put a copy of it back, or compare from {RUNS} "
            f"(experiment.runs_from={place.directory / RUNS} and another experiment.name)"
        ) from None
