"""`s2l experiment --dry-run`: the arms and runs of an experiment, their plans and time; only Ray is started."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from actors.connection import connect
from actors.private_ray import end_private_ray
from s2l_ray.config.embedded import source_name
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.display.text import duration, print_line, with_short_paths
from s2l_ray.experiments.arms import study_of
from s2l_ray.experiments.configurations import configurations_of
from s2l_ray.experiments.driver import begun
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.experiments.reading import load_experiment, split_overrides
from s2l_ray.experiments.taken import taken_runs
from s2l_ray.machine.console import CommandConsole
from s2l_ray.placement.plan import Plan
from s2l_ray.tuning.place import StudyPlace
from s2l_ray.tuning.preparing import prepare
from s2l_ray.tuning.rehearsal import PREDICTED, devices_of, most_engines
from s2l_ray.tuning.study_bank import described_need
from s2l_ray.tuning.study_file import StudyFile
from s2l_ray.tuning.table import fitted_table
from s2l_ray.tuning.trial_plans import planned_trials
from s2l_ray.tuning.wording import values_text

BASELINE = " (baseline)"


def rehearse_experiment(path: str, overrides: Sequence[str]) -> None:
    """Check and plan the runs of an experiment, and print them; or say that none would be run.

    Raises:
        S2LError: the experiment cannot be run.
    """
    of_config, of_file = split_overrides(overrides)
    file = load_experiment(path, of_file)
    study = study_of(file, of_config)
    if (compared := _only_compared(file, of_config)) is not None:
        print_line(CommandConsole(), compared)
        return
    with TaskDisplay() as display:
        prepared = prepare(file.config, study, of_config, FetchDisplay(display))
        owned = connect(prepared.base.cluster, display.say)
        try:
            planned = planned_trials(prepared, display)
            needed = described_need(prepared, planned.inventory, display)
        finally:
            if owned:
                end_private_ray()
    place = with_short_paths(str(prepared.place))
    CommandConsole().print(Rehearsal(file, study, place, planned.plans, planned.at_once, needed))


def _only_compared(file: ExperimentFile, overrides: Sequence[str]) -> str | None:
    """A line for people where an experiment would run nothing; None where it would.

    Raises:
        ConfigError: another experiment is in its place; or there are no runs that it can be compared from.
    """
    place = StudyPlace.of(file.storage, file.name)
    _, state = begun(place, file, overrides)
    where = with_short_paths(str(place))
    if file.runs_from is not None:
        runs = len(taken_runs(file, configurations_of(file, overrides)).runs)
        return f"{where}: nothing would be run; the arms would be compared from {runs} runs of runs_from"
    if state is not None and state.finished:
        return f"{where}: the experiment is finished; nothing would be run, and its arms would be compared again"
    return None


@dataclass(frozen=True)
class Rehearsal:
    """What would be run, for a terminal."""

    file: ExperimentFile
    study: StudyFile
    """That runs it."""
    place: str
    """The experiment's directory, or its URL."""
    plans: Sequence[Plan]
    """Of each run."""
    at_once: int
    """How many run at the same time."""
    needed: str | None
    """What the bank needs, in a line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        file = self.file
        yield Text("")
        yield Text(f"{self.place}: {_heading(file)}", style="bold")
        if file.question:
            yield Text(file.question)
        if file.hypothesis:
            yield Text(f"hypothesis: {file.hypothesis}", style="italic")
        yield Text("")
        yield self._arms()
        yield Text("")
        yield self._plans(options.max_width)
        yield Text("")
        yield Text(time_text(self.plans, self.at_once))
        if self.needed:
            yield Text(self.needed)

    def _arms(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("arm", no_wrap=True)
        table.add_column("differs in")
        for name, run in zip(self._names, self.study.runs, strict=False):
            own = self.file.arms[name.removesuffix(BASELINE)]
            table.add_row(name, Text(values_text({key: _named(run[key]) for key in own}) or "nothing"))
        return table

    def _plans(self, width: int) -> Table:
        plans = self.plans[: len(self.file.arms)]  # of the first seed: those of the others are the same
        columns = {
            "arm": self._names,
            "engines": [most_engines(plan) for plan in plans],
            "trainer\nranks": [str(plan.ranks) for plan in plans],
            "on": [devices_of(plan) for plan in plans],
            PREDICTED: ["" if plan.run_seconds is None else duration(plan.run_seconds) for plan in plans],
        }
        return fitted_table(columns, (), ("trainer\nranks", "engines"), [""] * len(plans), width)

    @property
    def _names(self) -> list[str]:
        return [f"{name}{BASELINE}" if name == self.file.baseline_arm else name for name in self.file.arms]


def _named(value: Any) -> Any:
    """A value, by its name if it is a part of the embedded family."""
    return source_name(value) if isinstance(value, str) else value


def _heading(file: ExperimentFile) -> str:
    seeds = file.seed_list
    count = len(file.arms) * len(seeds)
    return f"{count} runs: {len(file.arms)} arms with {len(seeds)} seeds ({', '.join(map(str, seeds))})"


def time_text(plans: Sequence[Plan], at_once: int) -> str:
    """How long all runs take, by the plans' predictions."""
    seconds = [plan.run_seconds for plan in plans if plan.run_seconds is not None]
    how = "one run at a time" if at_once == 1 else f"{at_once} runs at a time"
    if len(seconds) < len(plans):
        return f"{how}; their time is not predicted"
    rounds = math.ceil(len(seconds) / at_once)
    total = rounds * sum(seconds) / len(seconds)
    return (
        f"{how}: about {duration(total)} for the steps of all {len(seconds)}, predicted without starts of engines, "
        "evaluations and checkpoints"
    )
