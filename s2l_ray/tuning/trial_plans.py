"""The plan of each trial of a study, on its part of the cluster."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.display import TaskDisplay
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.live_nodes import nodes_to_plan_for
from s2l_ray.placement.plan import Plan
from s2l_ray.reporter import SilentReporter
from s2l_ray.run.planning import plan_run
from s2l_ray.tuning.preparing import PreparedStudy
from s2l_ray.tuning.samples import named, refusal
from s2l_ray.tuning.sharing import with_bank
from s2l_ray.tuning.slices import described, number_at_once, reworded, sliced
from s2l_ray.tuning.study_bank import planned_mode


@dataclass(frozen=True)
class PlannedTrials:
    """Trials that can be placed."""

    at_once: int
    """How many run at the same time."""
    inventory: Inventory
    """The whole cluster."""
    plans: list[Plan]
    """Of each of the study's samples, on its part of the cluster."""


def planned_trials(prepared: PreparedStudy, display: TaskDisplay) -> PlannedTrials:
    """Plan every trial for its part of the cluster.

    Raises:
        ConfigError: trials cannot be placed; it names them, their values and the reasons.
        PlacementError: the cluster has less than one trial's part.
    """
    inventory = nodes_to_plan_for(prepared.base, display.say)
    trials = len(prepared.samples) if prepared.drawn else prepared.file.trials or 1
    at_once = number_at_once(inventory, sliced(prepared.base, prepared.file).placement, trials)
    problems: list[tuple[str, str]] = []
    plans: list[Plan] = []
    mode = planned_mode(prepared)
    display.update("trials planned", 0, len(prepared.samples))  # so that the first one counts in the time left
    for done, sample in enumerate(prepared.samples, 1):
        config = sliced(sample.config, prepared.file)
        try:
            plans.append(plan_run(with_bank(config, mode), SilentReporter()).plan)
        except S2LError as error:
            trial = named(sample.number if prepared.drawn else None, sample.values)
            problems.append((trial, reworded(str(error), prepared.file)))
        display.update("trials planned", done, len(prepared.samples))
    if problems:
        raise ConfigError(refusal(problems, len(prepared.samples) if prepared.drawn else None))
    display.say(described(at_once, trials, inventory, prepared.file))
    return PlannedTrials(at_once, inventory, plans)
