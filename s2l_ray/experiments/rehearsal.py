"""`s2l experiment --dry-run`: the arms and runs of an experiment, their plans and time; only Ray is started."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from actors.connection import connect
from actors.private_ray import end_private_ray
from s2l_ray.config.embedded import source_name
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.display.text import duration, print_line, with_short_paths
from s2l_ray.experiments.arms import study_of
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.experiments.reading import load_experiment, split_overrides
from s2l_ray.machine.console import CommandConsole
from s2l_ray.placement.plan import Plan
from s2l_ray.tuning.preparing import prepare
from s2l_ray.tuning.rehearsal import PREDICTED, devices_of, most_engines
from s2l_ray.tuning.study_bank import described_need
from s2l_ray.tuning.table import fitted_table
from s2l_ray.tuning.trial_plans import planned_trials
from s2l_ray.tuning.wording import values_text


def rehearse_experiment(path: str, overrides: Sequence[str]) -> None:
    """Check and plan the runs of an experiment, and print them.

    Raises:
        S2LError: the experiment cannot be run.
    """
    of_config, of_file = split_overrides(overrides)
    file = load_experiment(path, of_file)
    study = study_of(file, of_config)
    with TaskDisplay() as display:
        prepared = prepare(file.config, study, of_config, FetchDisplay(display))
        owned = connect(prepared.base.cluster, display.say)
        try:
            planned = planned_trials(prepared, display)
            needed = described_need(prepared, planned.inventory, display)
        finally:
            if owned:
                end_private_ray()
    console = CommandConsole()
    print_line(console, f"\n{with_short_paths(str(prepared.place))}: {_heading(file)}")
    for label, text in (("question", file.question), ("hypothesis", file.hypothesis)):
        if text:
            print_line(console, f"{label}: {text}")
    for (name, own), run in zip(file.arms.items(), study.runs, strict=False):
        values = {key: _named(run[key]) for key in own}
        print_line(console, f"arm {name}: {values_text(values) or 'what all runs share'}")
    print_line(console, "")
    plans = planned.plans[: len(file.arms)]  # of the first seed: those of the others are the same
    columns = {
        "arm": [f"{name} (baseline)" if name == file.baseline_arm else name for name in file.arms],
        "engines": [most_engines(plan) for plan in plans],
        "trainer\nranks": [str(plan.ranks) for plan in plans],
        "on": [devices_of(plan) for plan in plans],
        PREDICTED: ["" if plan.run_seconds is None else duration(plan.run_seconds) for plan in plans],
    }
    console.print(fitted_table(columns, (), ("trainer\nranks", "engines"), [""] * len(plans), console.width))
    print_line(console, f"\n{time_text(planned.plans, planned.at_once)}")
    if needed:
        print_line(console, needed)


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
