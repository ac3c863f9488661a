"""A simulated run on the terminal, phase by phase beside what the plan predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.kinds import PhaseName
from s2l_ray.placement.plan import Plan
from s2l_ray.planner.show import look
from s2l_ray.planner.simulate.simulated_run import SimulatedStep, Simulation

PARTS = {"rollout": "rollouts", "sleep_wake": "sleep and wake", "update": "update", "weight_sync": "weight sync"}


def simulation_section(found: Simulation, plan: Plan) -> Iterator[RenderableType]:
    """A column per phase: the mean simulated step, the plan's, its parts, how busy the actors are."""
    names = list(found.phase_seconds())
    steps = {name: [step for step in found.steps if step.phase == name] for name in names}
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", style="dim", no_wrap=True, min_width=18)
    for name in names:
        shown = look.steps(steps[name][0].step, steps[name][-1].step)
        table.add_column(Text.assemble((name, "bold"), (f" {shown}", "dim")), no_wrap=True)
    for part, label in PARTS.items():
        if any(part in step.seconds for step in found.steps):
            table.add_row(label, *(look.seconds(_mean(steps[name], part)) for name in names))
    whole = (Text(look.seconds(seconds), "bold") for seconds in found.phase_seconds().values())
    table.add_row(Text("whole step", "bold not dim"), *whole)
    table.add_row("planned", *(look.seconds(_planned(plan, name)) for name in names))
    for role in look.ROLE_COLOURS:
        shares = [found.busy(name).get(role) for name in names]
        if any(shares):
            table.add_row(f"{role} busy", *("-" if share is None else f"{share:.0%}" for share in shares))
    yield table
    yield Text(f"{look.seconds(found.run_seconds)} for {len(found.steps)} steps")
    if found.left_out:
        yield Text(f"not simulated: {'; '.join(found.left_out)}", "dim")


def _mean(steps: Sequence[SimulatedStep], part: str) -> float:
    return sum(step.seconds.get(part, 0.0) for step in steps) / len(steps)


def _planned(plan: Plan, name: PhaseName) -> float:
    return next(phase.step_seconds for phase in plan.phases if phase.name == name)
