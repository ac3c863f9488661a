"""A run as it lies on disk, finished or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from s2l_ray.config import Config, load_config
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.evaluation.held_out import Evaluations
from s2l_ray.machine.disk import read_json
from s2l_ray.machine.reading import MISREAD, misread
from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.run.earlier_evaluations import evaluations_in
from s2l_ray.step_log import StepLog

Made = TypeVar("Made")
CONFIG, STEPS, SUMMARY, PLAN = "config.yaml", "steps.jsonl", "summary.json", "plan.json"
SHOWN = 8
"""Directories that an error names at most."""


@dataclass(frozen=True)
class RunFiles:
    """What a run directory says."""

    directory: Path
    name: str
    """Of the run; with its directory's name where another run of the same report is called so as well."""
    config: Config
    records: Sequence[StepRecord]
    """At least one."""
    summary: dict[str, Any] | None
    """See `evaluation.summary`; None where the run has not got to its end."""
    plan: dict[str, Any] | None
    """See `planner.show.serialise`."""

    @property
    def finished(self) -> bool:
        """Whether it got to its end."""
        return self.summary is not None

    @cached_property
    def evaluations(self) -> Evaluations:
        """The held-out evaluations; of a run that has not got to its end, those that its newest checkpoint has."""
        return evaluations_in(self.directory, self.summary)

    @cached_property
    def learner_evaluations(self) -> list[EvaluationRecord]:
        """The learner's, by step: before training, during and after it."""
        found = self.evaluations
        rows = [record for record in (found.before, *found.during, found.after) if record is not None]
        return list({record.step: record for record in rows}.values())


def read_run(directory: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        ConfigError: it is none, or no step was done.
        DataError: one of its files cannot be read, or was written by another version.
    """
    if not directory.exists():
        raise ConfigError(f"{directory} does not exist")
    records = StepLog(directory / STEPS).read()
    if not records:
        raise ConfigError(_why_none(directory))
    if not (directory / CONFIG).exists():
        raise ConfigError(f"{directory} is no run directory: it has no {CONFIG}")
    config = load_config(directory / CONFIG)
    run = RunFiles(directory, config.name, config, records, document(directory / SUMMARY), document(directory / PLAN))
    guarded(directory, lambda: run.learner_evaluations)
    return run


def _why_none(directory: Path) -> str:
    """Why a directory is not that of a run with steps, and what to give in its place where it has runs."""
    from s2l_ray.tuning.outcomes import study_files  # not above: what is a run needs nothing of studies
    from s2l_ray.tuning.place import EXPERIMENT, STATE

    if (directory / EXPERIMENT).exists():
        kind = "an experiment, which has no steps of its own"
    elif (directory / STATE).exists() or study_files(directory)["table"].exists():
        kind = "a study, which has no steps of its own"
    else:
        return f"{directory} is no run directory with steps: it has no {STEPS}, or an empty one"
    runs = [str(path.parent) for path in sorted(directory.glob(f"*/{STEPS}")) if path.stat().st_size]
    if not runs:
        return f"{directory} is {kind}, and none of its runs has done a step here"
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return f"{directory} is {kind}; give directories of its runs: {', '.join(runs[:SHOWN])}{more}"


def read_runs(directories: Sequence[Path]) -> list[RunFiles]:
    """Read several, whose names then differ.

    Raises:
        ConfigError, DataError: as `read_run`; or one directory is given twice.
    """
    refuse_doubles(directories)
    found = [read_run(directory) for directory in directories]
    names = [run.name for run in found]
    return [run if names.count(run.name) == 1 else _renamed(run, found) for run in found]


def refuse_doubles(directories: Sequence[Path]) -> None:
    """Refuse a directory that is given twice.

    Raises:
        ConfigError: it names them.
    """
    places = [directory.resolve() for directory in directories]
    if twice := {str(place) for place in places if places.count(place) > 1}:
        raise ConfigError(f"{', '.join(sorted(twice))} is given more than once")


def _renamed(run: RunFiles, others: Sequence[RunFiles]) -> RunFiles:
    """Named after its directory, by as many parts of the path as tell it from the others."""
    parts = run.directory.resolve().parts
    same = [o.directory.resolve().parts for o in others if o is not run]
    count = next(n for n in range(1, len(parts) + 1) if all(parts[-n:] != other[-n:] for other in same))
    return RunFiles(run.directory, "/".join(parts[-count:]), run.config, run.records, run.summary, run.plan)


def document(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    return read_json(path, "put a copy of it back") if path.exists() else None


def guarded(place: Path, make: Callable[[], Made]) -> Made:
    """What is made of files, whose contents may be those of another version of s2l-ray.

    Raises:
        DataError: they are.
    """
    try:
        return make()
    except MISREAD as error:
        what = place if place.suffix == ".json" else f"{place}: its {SUMMARY}, {PLAN} or {STEPS}"
        raise DataError(
            f"{what} is not what this version of s2l-ray writes ({misread(error)}). Read it with the "
            "version that wrote it"
        ) from error
