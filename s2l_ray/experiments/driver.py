"""Running an experiment as a study, going on with it, and comparing its arms.

result = run_experiment("figure4", ["experiment.seeds=3"])
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from s2l_ray.config import Config
from s2l_ray.display.text import print_line
from s2l_ray.errors import ConfigError, S2LError, StorageError
from s2l_ray.experiments.arms import runs_of, study_of
from s2l_ray.experiments.comparison import Comparison, compared
from s2l_ray.experiments.configurations import Configuration, configurations_of
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.experiments.measured import MeasuredRun, measured_runs
from s2l_ray.experiments.memory import Memory
from s2l_ray.experiments.reading import OVERRIDE, load_experiment, split_overrides
from s2l_ray.experiments.report import write_results
from s2l_ray.experiments.runs_csv import RUNS, write_runs
from s2l_ray.experiments.table import ResultTable
from s2l_ray.experiments.taken import OUTCOMES, TakenRuns, kept_outcomes, taken_runs
from s2l_ray.machine.console import CommandConsole
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.driver import Ending, run_study
from s2l_ray.tuning.last_words import last_words
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome
from s2l_ray.tuning.place import StudyPlace, StudyState


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment came to."""

    comparison: Comparison
    facts: StudyFacts
    place: StudyPlace
    again: bool = False
    """It was finished before: nothing was run."""
    problems: Sequence[S2LError] = ()
    """What could not be written."""

    @property
    def table(self) -> ResultTable:
        """The results for a terminal."""
        return ResultTable(self.comparison, self.facts, str(self.place), self.place.directory)

    @property
    def failed(self) -> int:
        """How many runs did not get to their end."""
        return len(self.comparison.unfinished)


def run_experiment(path: str, overrides: Sequence[str] = ()) -> ExperimentResult:
    """Run an experiment, or go on with the one that the same call has begun. What `s2l experiment` does.

    Runs that failed are tried again, each from its last checkpoint.
    Of a finished one, and of one with `runs_from`, the arms are compared, and nothing is run.

    Args:
        path: the file of an experiment, or the name of one that s2l-ray ships.
        overrides: `key=value` of the configuration, and `experiment.key=value` of the file.

    Raises:
        S2LError: anything that a user can correct; if possible before anything is started.
    """
    of_config, of_file = split_overrides(overrides)
    file = load_experiment(path, of_file)
    study = study_of(file, of_config)
    place = StudyPlace.of(file.storage, file.name)
    memory, state = begun(place, file, of_config)
    configurations = configurations_of(file, of_config)
    writer = _Writer(file, place, memory, configurations)
    if file.runs_from is not None:
        return writer.of_taken(taken_runs(file, configurations))
    if state is not None and state.finished:
        return writer.again(state)
    command = shlex.join(["s2l", "experiment", path, *overrides])
    labels = {run.number: run.label for run in runs_of(file)}
    ending = Ending(memory.write, writer.write, lambda place: command, retries_failed=True, labels=labels)
    done = run_study(file.config, study, of_config, ending)
    if not writer.has_result and done.problems:
        raise done.problems[0]
    return replace(writer.result, problems=done.problems)


def begun(place: StudyPlace, file: ExperimentFile, overrides: Sequence[str]) -> tuple[Memory, StudyState | None]:
    """What an experiment remembers of itself, and the state of its study; None if that has not begun.

    Raises:
        ConfigError: another study or experiment is there; it names the differences.
    """
    now, state, before = Memory.of(file, overrides), place.read(), Memory.read(place)
    if state is None and before is None:
        return now, None
    if before is None:
        raise ConfigError(f"{place} holds a study that is no experiment; choose another name ({OVERRIDE}name=...)")
    before.refuse_differences(place, now)
    return Memory(now.experiment, now.overrides, before.begun), state


@dataclass
class _Writer:
    """Compares the arms at the end of a start, and writes that down."""

    file: ExperimentFile
    place: StudyPlace
    memory: Memory
    configurations: Sequence[Configuration]
    """Of the runs, as they were when this start began: what they were read from may have changed since."""
    _results: list[ExperimentResult] = field(default_factory=list)

    @property
    def has_result(self) -> bool:
        return bool(self._results)

    @property
    def result(self) -> ExperimentResult:
        return self._results[-1]

    def write(self, about: StudyAbout, outcomes: Sequence[TrialOutcome], facts: StudyFacts, best: Config) -> list[Path]:
        """See `tuning.driver.Ending`. Which trial is the best says nothing of an experiment."""
        kept = {"confidence": about.confidence, "outcomes": [outcome.to_json() for outcome in outcomes]}
        self.place.storage.put(OUTCOMES, json.dumps(kept, indent=2).encode())
        return self._compared(self._measured(outcomes), about.confidence, facts, keep=True)

    def again(self, state: StudyState) -> ExperimentResult:
        """Compare the arms of a finished experiment once more."""
        confidence, outcomes = kept_outcomes(self.place)
        facts = StudyFacts(state.seconds, state.bank, state.mlflow_run_id, state.mlflow_uri)
        # The file of runs stays as the last start wrote it; an earlier version wrote none.
        keep = not self.place.storage.exists(RUNS)
        self._upload(self._compared(self._measured(outcomes), confidence, facts, keep=keep))
        return ExperimentResult(self.result.comparison, facts, self.place, again=True)

    def of_taken(self, taken: TakenRuns) -> ExperimentResult:
        """Compare runs that were done elsewhere."""
        self.memory.write(self.place)
        self._upload(self._compared(taken.runs, taken.confidence, taken.facts, keep=True))
        return self.result

    def _upload(self, files: list[Path]) -> None:
        try:
            self.place.upload(files)
        except StorageError as error:
            for line in last_words([str(error)], None):
                print_line(CommandConsole(), line)

    def _measured(self, outcomes: Sequence[TrialOutcome]) -> list[MeasuredRun]:
        return measured_runs(runs_of(self.file), outcomes, self.place.storage)

    def _compared(self, runs: Sequence[MeasuredRun], confidence: float, facts: StudyFacts, *, keep: bool) -> list[Path]:
        """Write the results, and before them, with `keep`, the runs: all else can be made of these again."""
        comparison = compared(self.file, runs, confidence)
        self._results.append(ExperimentResult(comparison, facts, self.place))  # which a full disk does not take away
        kept = [self.place.directory / RUNS] if keep else []
        for path in kept:
            write_runs(runs, self.configurations, path)
        return [*write_results(comparison, facts, self.place.directory, self.memory.begun), *kept]
