"""A plan on the terminal: which actor is placed where, memory, times, hand-overs, what lost.

Colours help, but nothing needs them: every block and bar also carries its number or name. What is alike is shown once,
so a plan for thousands of GPUs is as long as one for a few kinds of node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from s2l_ray.placement.plan import EngineSlot, Plan
from s2l_ray.planner.show import look
from s2l_ray.planner.show.grouping import ROLES, HandOver, bundles_of, hand_overs, memory_classes, ranges
from s2l_ray.planner.show.terminal_bars import memory_section, time_section
from s2l_ray.planner.show.terminal_map import slot_maps

if TYPE_CHECKING:
    from s2l_ray.planner.simulate.simulated_run import Simulation

WIDEST = 130
"""Wider terminals are not filled."""


class PlanReport:
    """Prints as the whole report, for the width and colours of the console it is printed on.

    Args:
        title: what was planned, such as "paper/qwen3_1.7b_to_8b on 1 node of 8 x H100-80GB".
        simulated: whose constants were used, and the simulated run.
    """

    def __init__(self, plan: Plan, title: str, simulated: tuple[str, Simulation] | None = None) -> None:
        self.plan = plan
        self.title = title
        self.simulated = simulated

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width = min(options.max_width, WIDEST)
        for section in _sections(self.plan, self.title, width, console.color_system is not None):
            yield Padding(section, (0, options.max_width - width, 0, 0))
        if self.simulated:
            yield from self._simulation(*self.simulated)

    def _simulation(self, constants: str, found: Simulation) -> Iterator[RenderableType]:
        from s2l_ray.planner.show.terminal_simulation import simulation_section

        yield from titled(f"simulated with {constants}", *simulation_section(found, self.plan))


def titled(title: str, *body: RenderableType) -> Iterator[RenderableType]:
    """A section under a line with its title."""
    yield Text("")
    yield Rule(Text(title, "bold"), align="left", style="dim")
    yield from body


def bullets(lines: Iterable[str], style: str = "") -> Table:
    """One item a line, wrapped beside its dash."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold", style=style)
    for line in lines:
        table.add_row("-", Text(line))
    return table


def _sections(plan: Plan, title: str, width: int, colour: bool) -> Iterator[RenderableType]:
    yield _headline(plan, title)
    if plan.problems:
        yield from titled("why it does not fit" if not plan.fits else "problems", bullets(plan.problems, "red"))
    classes = memory_classes(plan.phases)
    for heading, lines in slot_maps(plan.phases, classes, width, colour):
        yield from titled(heading, *lines)
    if classes:
        heading, body = memory_section(plan.phases, classes, width, colour)
        yield from titled(heading, *body)
    if plan.phases:
        yield from titled("an average step", *time_section(plan.phases, width))
    changes = hand_overs(plan.layout) if plan.layout else []
    if changes:
        yield from titled("hand-overs", bullets(_hand_over(plan, change) for change in changes))
    if plan.notes:
        yield from titled("notes", bullets(plan.notes))
    if plan.alternatives:
        yield from titled("alternatives, best first", _alternatives(plan))


def _headline(plan: Plan, title: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=8)
    table.add_column(overflow="fold")
    table.add_row("plan", Text(title, "bold"))
    fits = ("yes", "bold green") if plan.fits else ("no", "bold red")
    table.add_row("fits", Text.assemble(fits, f", {look.MODE_NAMES[plan.mode]}" if plan.mode else ""))
    if plan.ranks:
        copies = f" in {plan.layout.replicas} replicas" if plan.layout and plan.layout.replicas > 1 else ""
        sizes = [f"{plan.ranks} trainer rank{_s(plan.ranks)}{copies}"]
        sizes += [f"{role} tensor parallel {size}" for role, size in plan.tensor_parallel.items()]
        table.add_row("sizes", ", ".join(sizes))
    if plan.dtype:
        table.add_row("computes", f"in {plan.dtype.describe()}")
    if plan.run_seconds is not None:
        table.add_row("run", _run(plan, plan.run_seconds))
    if plan.saving:
        table.add_row("rollouts", _saving(plan))
    if plan.weight_sync:
        ways = ", ".join(f"{count} engine{_s(count)} by {way}" for way, count in plan.weight_sync.transfers.items())
        table.add_row(
            "weight sync", f"{look.amount(plan.weight_sync.bytes)} in {look.seconds(plan.weight_sync.seconds)}; {ways}"
        )
    return table


def _run(plan: Plan, run_seconds: float) -> str:
    count = sum(phase.steps for phase in plan.phases)
    pace = ", ".join(f"{phase.name} {phase.steps} x {look.seconds(phase.step_seconds)}" for phase in plan.phases)
    return f"{look.seconds(run_seconds)} for {count} step{_s(count)}: {pace}"


def _saving(plan: Plan) -> str:
    saving = plan.saving
    assert saving is not None
    spent = "fewer" if saving.saved >= 0 else "more"
    return (
        f"{abs(saving.saved):.1%} {spent} FLOPs than plain GRPO: explorer {look.flops(saving.explorer_flops)} + "
        f"learner {look.flops(saving.learner_flops)}, GRPO {look.flops(saving.grpo_flops)}"
    )


def _hand_over(plan: Plan, change: HandOver) -> str:
    assert plan.layout is not None
    bundles = bundles_of(plan.layout, change.bundles)
    nodes = {bundle.node for bundle in bundles}
    parts = [f"{_slots(slots)} {verb}" for slots, verb in ((change.ends, "end"), (change.begins, "begin")) if slots]
    where = f"bundle{_s(len(bundles))} {ranges(change.bundles)} on node{_s(len(nodes))} {ranges(nodes)}"
    return f"before step {change.step}: {', '.join(parts)} ({where})"


def _slots(slots: Sequence[EngineSlot]) -> str:
    found = []
    for role in ROLES:
        numbers = [slot.index for slot in slots if slot.role == role]
        if numbers:
            found.append(f"{role} {'rank' if role == 'trainer' else 'engine'}{_s(len(numbers))} {ranges(numbers)}")
    return " and ".join(found)


def _alternatives(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("plan", overflow="fold", ratio=4)
    table.add_column("run", no_wrap=True, justify="right")
    table.add_column("why it lost" if plan.fits else "why it does not fit", overflow="fold", ratio=6)
    for one in plan.alternatives:
        run = look.seconds(one.run_seconds) if one.run_seconds is not None else "-"
        table.add_row(Text(one.description), run, Text(one.reason, "" if one.fits else "red"))
    return table


def _s(count: int) -> str:
    return "s" if count != 1 else ""
