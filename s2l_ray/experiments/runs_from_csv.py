"""The runs of an experiment from runs.csv files that other machines may have made: nothing is taken on trust."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from s2l_ray.compute import Compute
from s2l_ray.errors import ConfigError
from s2l_ray.experiments.arms import PlannedRun, runs_of
from s2l_ray.experiments.configurations import Configuration, completed, is_free, portable
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.experiments.measured import MeasuredRun, Point
from s2l_ray.experiments.runs_csv import COSTS, COUNTS, ERROR, FLOPS, OF_RUN, ROLLOUT_FLOPS, SECONDS, TOKENS, VALUES
from s2l_ray.experiments.wording import is_percent, listed
from s2l_ray.kinds import TrialStatus
from s2l_ray.machine.places import existing_output
from s2l_ray.machine.reading import read_bounded
from s2l_ray.results import Spent
from s2l_ray.run.identity import all_that_differ
from s2l_ray.tuning.measured import EVALUATION
from s2l_ray.tuning.ranking import SEED

MOST_BYTES = 2**26
"""Of a file: a hundred times that of an experiment of a hundred runs."""
SHOWN = 60
"""Characters of a cell that a message repeats."""
PASS_AT_K = rf"{re.escape(EVALUATION)}pass_at_[0-9]{{1,9}}"
ROUNDING = 1e-9
STEPS = "schedule.steps"
LARGEST = 1e100
"""Amount that a cell may have: sums of such are finite."""
NAMED = 3
"""Differences of a configuration that are named."""


@dataclass(frozen=True)
class _Row:
    """One row of a file."""

    file: Path
    number: int
    """As a spreadsheet counts them: the heading is 1."""
    cells: Mapping[str, str]

    @property
    def place(self) -> str:
        return f"{self.file}, row {self.number}"

    def refused(self, reason: str) -> ConfigError:
        return ConfigError(f"runs_from: {self.place}: {reason}")

    def amount(self, column: str) -> float:
        """The number in a cell, finite and not negative."""
        text = self.cells[column]
        try:
            value = float(text)
        except ValueError:
            raise self.refused(f"{column} is {text[:SHOWN]!r}, not a number") from None
        if not abs(value) <= LARGEST or (value < 0 and not column.startswith(EVALUATION)):
            raise self.refused(f"{column} is {text[:SHOWN]}; give a finite number that is not negative")
        if is_percent(column) and not 0 <= value <= 1:
            raise self.refused(f"{column} is {text[:SHOWN]}; it is a share, between 0 and 1")
        return value

    def count(self, column: str) -> int:
        """The whole number in a cell."""
        value = self.amount(column)
        if value != int(value):
            raise self.refused(f"{column} is {self.cells[column][:SHOWN]}, not a whole number")
        return int(value)

    def by_source(self, columns: Mapping[Any, str]) -> dict[Any, float]:
        """The numbers of several columns, without those whose cells are empty."""
        return {source: self.amount(column) for source, column in columns.items() if self.cells[column]}


@dataclass(frozen=True)
class _Run:
    """The rows of one run."""

    rows: Sequence[_Row]
    """One or more."""
    configuration: Configuration
    """Without the paths of a machine (`configurations.portable`)."""

    @property
    def first(self) -> _Row:
        return self.rows[0]


def runs_from_csv(
    names: Sequence[str], file: ExperimentFile, configurations: Sequence[Configuration]
) -> list[MeasuredRun]:
    """Every run of an experiment: the one in the files that has its configuration, whatever arm it is of there.

    Args:
        names: paths of the files. Each run is in one of them; other runs there are passed over.
        file: of the experiment.
        configurations: of its runs.

    Returns:
        The runs in the order of `runs_of`, without their directories.

    Raises:
        ConfigError: a file cannot be read or is malformed, or a run is missing or there twice; it names file and row,
            and what differs in a run of the same arm and seed.
    """
    planned = [(run, portable(values)) for run, values in zip(runs_of(file), configurations, strict=True)]
    found: dict[int, _Run] = {}
    others: list[_Run] = []
    for name in names:
        for there in _runs_of(existing_output(name), file):
            run = next((run for run, values in planned if values == completed(there.configuration, values)), None)
            if run is None:
                others.append(there)
            elif (before := found.setdefault(run.number, there)) is not there:
                raise there.first.refused(f"{run.label} is there twice; it is also in {before.first.place}")
    if missing := [(run, values) for run, values in planned if run.number not in found]:
        _refuse_another_configuration(missing, others)
        raise ConfigError(
            f"runs_from: {', '.join(names)} have no run of the configuration of "
            f"{listed([run.label for run, _ in missing])}; give their files too"
        )
    compared = (file.metric, *file.also)
    return [_measured(found[run.number].rows, run, values[STEPS], compared) for run, values in planned]


def _rows_of(path: Path, file: ExperimentFile) -> Iterator[_Row]:
    """The rows of a file, whose columns are all there."""
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")  # spreadsheets begin a file with a mark
    except OSError as error:
        raise ConfigError(f"runs_from: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"runs_from: {path} cannot be read: {error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    try:
        heading = next(reader, [])
        _check_heading(_Row(path, number, {}), heading, file)
        for number, cells in enumerate(reader, 2):
            row = _Row(path, number, dict(zip(heading, cells, strict=False)))
            if len(cells) != len(heading):
                raise row.refused(f"it has {len(cells)} cells, the heading has {len(heading)}")
            yield row
    except csv.Error as error:
        raise ConfigError(f"runs_from: {path}, after row {number}: it is no CSV: {error}") from None


def _check_heading(row: _Row, heading: Sequence[str], file: ExperimentFile) -> None:
    needed = (*OF_RUN, file.metric, *file.also, *COSTS, ERROR, VALUES)
    if missing := [column for column in needed if column not in heading]:
        raise row.refused(f"there is no column {', '.join(missing)}")
    if len(set(heading)) < len(heading):
        raise row.refused("two columns have the same name")


def _runs_of(path: Path, file: ExperimentFile) -> Iterator[_Run]:
    """The runs of a file, each with its configuration."""
    rows = _rows_of(path, file)
    for _, group in itertools.groupby(rows, key=lambda row: (row.cells["arm"], row.cells["seed"])):
        first, *more = group
        yield _Run((first, *more), _configuration(first, more))


def _configuration(first: _Row, more: Sequence[_Row]) -> Configuration:
    """That of a run."""
    try:
        found = json.loads(first.cells[VALUES])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise first.refused(f"{VALUES} is not a JSON object; a run's first row has its configuration there")
    for row in more:
        if row.cells[VALUES] not in ("", first.cells[VALUES]):
            raise row.refused(f"{VALUES} differs from that of the run's first row, {first.number}")
    if first.count("seed") != found.get(SEED):
        raise first.refused(f"seed is {first.cells['seed'][:SHOWN]}, but {found.get(SEED)!r} in {VALUES}")
    # Of an earlier version, which compared keys that are free now.
    return portable({key: value for key, value in found.items() if not is_free(key)})


def _refuse_another_configuration(missing: Sequence[tuple[PlannedRun, Configuration]], others: Sequence[_Run]) -> None:
    """Where a missing run's arm and seed are there with another configuration, say what differs."""
    for run, now in missing:
        for there in others:
            if (there.first.cells["arm"], there.first.count("seed")) == (run.arm, run.seed):
                differences = all_that_differ(completed(there.configuration, now), now)
                said = "; ".join(text[: 4 * SHOWN] for text in differences[:NAMED])
                more = f" and {len(differences) - NAMED} more" if len(differences) > NAMED else ""
                raise there.first.refused(
                    f"{run.label} is of another configuration than this experiment's: {said}{more}"
                )


def _measured(rows: Sequence[_Row], run: PlannedRun, steps: int, compared: Sequence[str]) -> MeasuredRun:
    """A run of so many steps, whose rows have the metrics that are compared."""
    first = rows[0]
    status = _status(rows)
    error = first.cells[ERROR] or None
    if status != "finished":
        if len(rows) > 1 or first.cells["step"]:
            raise rows[-1].refused(f"a run that is {status} has one row, without a step")
        return MeasuredRun(run, status, "", error)
    points = tuple(_point(row, compared) for row in rows)
    for before, row in itertools.pairwise(rows):
        if row.count("step") <= before.count("step"):
            raise row.refused(f"step {row.cells['step']} follows step {before.cells['step']} of the same run")
        for column in COSTS:
            if row.cells[column] and before.cells[column] and row.amount(column) < before.amount(column):
                raise row.refused(f"{column} is {row.cells[column][:SHOWN]}, less than in the row before")
    if points[-1].step != steps:
        raise rows[-1].refused(f"the last row of a finished run is of step {points[-1].step}, but {STEPS} is {steps}")
    return MeasuredRun(run, status, "", error, points, points[-1].spent)


def _status(rows: Sequence[_Row]) -> TrialStatus:
    """That of a run."""
    given = rows[0].cells["status"]
    for row in rows:
        if row.cells["status"] != given:
            raise row.refused(
                f"status is {row.cells['status'][:SHOWN]!r}, but {given[:SHOWN]!r} in the run's first row"
            )
    known: tuple[TrialStatus, ...] = get_args(TrialStatus)
    found = next((status for status in known if status == given), None)
    if found is None:
        raise rows[0].refused(f"status is {given[:SHOWN]!r}; there are {', '.join(known)}")
    return found


def _point(row: _Row, compared: Sequence[str]) -> Point:
    # Several files of one experiment may have been evaluated at other k's; what is compared is in all of them.
    columns = [c for c, cell in row.cells.items() if c.startswith(EVALUATION) and (cell or c in compared)]
    values = {column: row.amount(column) for column in columns}
    by_k = sorted((int(c.rpartition("_")[2]), value) for c, value in values.items() if re.fullmatch(PASS_AT_K, c))
    for (k, low), (more, high) in itertools.pairwise(by_k):
        if high < low - ROUNDING:
            raise row.refused(f"pass@{more} is below pass@{k}, which cannot be")
    return Point(row.count("step"), values, _spent(row))


def _spent(row: _Row) -> Spent | None:
    """What training had spent; None: not known, since an earlier version has run it."""
    of_compute = [column for column in COSTS if column != SECONDS]
    if not any(row.cells[column] for column in COSTS):
        return None
    if not any(row.cells[column] for column in of_compute):
        return Spent(row.amount(SECONDS), None)
    tokens = {source: row.count(TOKENS[source]) for source in row.by_source(TOKENS)}
    counts = {name: row.count(name) for name in COUNTS}
    flops = {name: row.amount(name) for name in FLOPS}
    compute = Compute(tokens=tokens, rollout_flops=row.by_source(ROLLOUT_FLOPS), **counts, **flops)  # type: ignore[arg-type]
    return Spent(row.amount(SECONDS), compute)
