"""`s2l tune --dry-run`: the trials of a study, the plan of each and what the bank needs; only Ray is started."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from actors.connection import connect
from actors.private_ray import end_private_ray
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.display.text import duration, print_line, with_short_paths
from s2l_ray.machine.console import CommandConsole
from s2l_ray.placement.plan import Plan
from s2l_ray.tuning.preparing import prepare
from s2l_ray.tuning.reading import load_study, split_overrides
from s2l_ray.tuning.samples import Sample
from s2l_ray.tuning.study_bank import described_need
from s2l_ray.tuning.table import fitted_table, heading
from s2l_ray.tuning.trial_plans import planned_trials
from s2l_ray.tuning.wording import value_text

PREDICTED = "steps\ntake,\npredicted"
"""Heading: the time of all steps by the plan's model, without starts of engines, evaluations and checkpoints."""


def rehearse(config: str, study: str, overrides: Sequence[str]) -> None:
    """Draw, check and plan the trials, and print them.

    Raises:
        S2LError: the study cannot be run.
    """
    of_config, of_study = split_overrides(overrides)
    with TaskDisplay() as display:
        prepared = prepare(config, load_study(study, of_study), of_config, FetchDisplay(display))
        owned = connect(prepared.base.cluster, display.say)
        try:
            planned = planned_trials(prepared, display)
            needed = described_need(prepared, planned.inventory, display)
        finally:
            if owned:
                end_private_ray()
    console = CommandConsole()
    values = (
        "the trials" if prepared.drawn else "values from all over the space; others are suggested as the study runs"
    )
    print_line(console, f"\n{with_short_paths(str(prepared.place))}: {values}, and the plan of each")
    console.print(plans_table(prepared.space.keys, prepared.samples, planned.plans, console.width))
    if needed:
        print_line(console, f"\n{needed}")


def plans_table(keys: Sequence[str], samples: Sequence[Sample], plans: Sequence[Plan], width: int) -> Table:
    """A row for each sample: its values, how many engines and trainer ranks it gets on which devices, and for how long.

    Args:
        keys: those that the study varies.
        samples: trials, or values that trials may have.
        plans: of each of them.
        width: of the terminal, in characters.
    """
    columns = {
        "trial": [f"{sample.number:05d}" for sample in samples],
        **{heading(key, keys): [value_text(sample.values[key]) for sample in samples] for key in keys},
        "engines": [most_engines(plan) for plan in plans],
        "trainer\nranks": [str(plan.ranks) for plan in plans],
        "on": [devices_of(plan) for plan in plans],
        PREDICTED: ["" if plan.run_seconds is None else duration(plan.run_seconds) for plan in plans],
    }
    return fitted_table(columns, keys, (PREDICTED, "trainer\nranks"), [""] * len(samples), width)


def most_engines(plan: Plan) -> str:
    """The largest number of engines that a run has at one time."""
    assert plan.layout is not None
    return str(max(len(phase.engines) for phase in plan.layout.phases))


def devices_of(plan: Plan) -> str:
    """What is reserved for a trial: its GPUs, or its CPUs where it runs on those."""
    assert plan.layout is not None
    kind = plan.layout.device.upper()
    count = sum(bundle.resources.get(kind, 0.0) for bundle in plan.layout.bundles)
    return f"{count:g} {kind}{'' if count == 1 else 's'}"
