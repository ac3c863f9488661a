"""A plan as one picture: the actors on every device in each phase, memory by kind of device, and the parts of a step.

matplotlib is imported inside functions, and without pyplot: no backend is chosen for the caller's process.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.placement.plan import PhasePlan, Plan
from s2l_ray.planner.show import look
from s2l_ray.planner.show.grouping import (
    AlikeNodes,
    MemoryClass,
    MemoryKey,
    blocks,
    memory_classes,
    memory_key,
    node_groups,
    ranges,
)
from s2l_ray.style import INK, MUTED, RULE, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

NODE_KINDS = 6
"""Kinds of node drawn for one phase."""
CLASSES = 8
"""Kinds of memory drawn."""
CPU_NODE = 8
"""Devices as wide as which a CPU node is drawn."""
COLUMN_INCHES = 4.4
STRIP = 0.8
"""Height of an actor's strip, where lines of a map are 1 apart."""


def draw_plan(plan: Plan, title: str, path: Path) -> Path:
    """Draw the plan as a PNG file; returns its path."""
    return save_png(lambda: plan_figure(plan, title), path)


def plan_figure(plan: Plan, title: str) -> Figure:
    """The picture; a plan that does not fit is its problems in words."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not plan.phases:
        return _words(plan, title)
    phases = plan.phases
    groups = [node_groups(phase.gpus) for phase in phases]
    classes = memory_classes(phases)
    heights = [max(_map_lines(g) for g in groups) * 0.26 + 0.6, _memory_inches(classes), _time_inches(phases)]
    width = max(11.0, COLUMN_INCHES * len(phases))
    figure = Figure(
        figsize=(width, sum(heights) + 1.9), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, hspace=0.04)
    )
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(_headline(plan, title), x=0.01, ha="left", fontsize=12.5)
    deepest = max(_map_lines(g) for g in groups)
    for axes, phase, kinds in zip(_row(top, len(phases)), phases, groups, strict=True):
        _draw_map(axes, phase, kinds, classes, deepest)
    _draw_memory(middle.subplots(), classes)
    for axes, phase in zip(_row(bottom, len(phases)), phases, strict=True):
        _draw_times(axes, phase, phases)
    _legends(figure, top, classes)
    return figure


def _headline(plan: Plan, title: str) -> str:
    lines = [title, look.MODE_NAMES[plan.mode] if plan.mode else ""]
    facts = []
    if plan.run_seconds is not None:
        facts.append(f"{look.seconds(plan.run_seconds)} for {sum(p.steps for p in plan.phases)} steps")
    if plan.saving:
        spent = "fewer" if plan.saving.saved >= 0 else "more"
        facts.append(f"{abs(plan.saving.saved):.0%} {spent} rollout FLOPs than plain GRPO")
    if plan.weight_sync:
        facts.append(f"weight sync {look.amount(plan.weight_sync.bytes)} in {look.seconds(plan.weight_sync.seconds)}")
    return "\n".join(filter(None, [*lines, ", ".join(facts), "" if plan.fits else "DOES NOT FIT"]))


def _row(figure: SubFigure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])


# Where actors are placed


def _map_lines(groups: Sequence[AlikeNodes]) -> int:
    """Lines that a map takes: per node a heading, its roles, its memory classes and a gap."""
    return sum(len(group.occupants) + 3 for group in groups[:NODE_KINDS]) - 1 + 2 * (len(groups) > NODE_KINDS)


def _draw_map(
    axes: Axes, phase: PhasePlan, groups: Sequence[AlikeNodes], classes: dict[MemoryKey, MemoryClass], lines: int
) -> None:
    axes.set_title(f"{phase.name}, {look.steps(phase.first_step, phase.last_step)}")
    axes.axis("off")
    devices = CPU_NODE if phase.gpus[0].gpu is None else max(len(group.loads) for group in groups)
    axes.set(xlim=(-0.06 * devices, devices * 1.02), ylim=(lines, -0.2))
    y = 0.0
    for group in groups[:NODE_KINDS]:
        _draw_node(axes, group, classes, y)
        y += len(group.occupants) + 3
    rest = groups[NODE_KINDS:]
    if rest:
        axes.text(0, y + 0.5, f"and {sum(len(g.nodes) for g in rest)} nodes of {len(rest)} more kinds", color=MUTED)


def _draw_node(axes: Axes, group: AlikeNodes, classes: dict[MemoryKey, MemoryClass], top: float) -> None:
    """A frame with a column per device; a strip per actor, over the devices it has."""
    alike = f"nodes {ranges(group.nodes)} ({len(group.nodes)} alike)"
    axes.text(0, top + 0.4, alike if len(group.nodes) > 1 else f"node {group.nodes[0]}", va="center", weight="bold")
    on_cpus = group.loads[0].gpu is None
    width = CPU_NODE if on_cpus else 1
    _draw_frame(axes, group, classes, top + 0.8, width)
    for line, role in enumerate(group.occupants):
        if on_cpus:
            _draw_strip(axes, role, 0, top + 0.8 + line, width, ranges(group.occupants[role]))
            continue
        for block in blocks(group.loads, role):
            number = str(block.index) if len(group.nodes) == 1 else ""
            _draw_strip(axes, role, block.first, top + 0.8 + line, block.devices, number)


def _draw_frame(axes: Axes, group: AlikeNodes, classes: dict[MemoryKey, MemoryClass], top: float, width: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    height = len(group.occupants) + 1
    style: dict[str, Any] = {
        "boxstyle": "round,pad=0.02,rounding_size=0.1",
        "facecolor": "#f4f4f4",
        "edgecolor": MUTED,
        "gid": "node",
    }
    axes.add_patch(FancyBboxPatch((0, top), len(group.loads) * width, height, linewidth=0.8, **style))
    for position, load in enumerate(group.loads):
        if position:
            axes.plot([position, position], [top, top + height], color=RULE, linewidth=0.8, zorder=1.5)
        key = memory_key(load)
        device = "CPUs" if load.gpu is None else str(load.gpu)
        gap, size = ("  ", 8) if axes.get_xlim()[1] < 9 else ("\n", 6.5)  # two lines where columns are narrow
        label = f"{device}{gap}{classes[key].letter if key in classes else '-'}"
        place = (position + 0.5) * width, top + height - 0.45
        axes.text(*place, label, ha="center", va="center", fontsize=size, linespacing=1.0, color=MUTED)


def _draw_strip(axes: Axes, role: str, left: float, top: float, width: float, number: str) -> None:
    from matplotlib.patches import Rectangle

    colour = look.ROLE_COLOURS[role]
    corner, size = (left + 0.06, top + 0.15), (width - 0.12, STRIP)
    axes.add_patch(Rectangle(corner, *size, facecolor=colour, linewidth=0, zorder=2, gid=f"{role}:{number}"))
    centre = left + width / 2, top + 0.15 + STRIP / 2
    style: dict[str, Any] = {"color": look.ink_on(colour), "fontsize": 9, "weight": "bold", "zorder": 3}
    axes.text(*centre, number, ha="center", va="center", **style)


# Memory


def _memory_inches(classes: dict[MemoryKey, MemoryClass]) -> float:
    return 0.34 * min(len(classes), CLASSES) + 0.95


def _draw_memory(axes: Axes, classes: dict[MemoryKey, MemoryClass]) -> None:
    """A bar per memory class, in an outline of its capacity."""
    shown = list(classes.values())[:CLASSES]
    device = "node" if shown[0].load.gpu is None else "GPU"
    some = f" (first {CLASSES} kinds of {len(classes)})" if len(classes) > CLASSES else ""
    axes.set_title(f"memory of one {device} at its fullest moment{some}")
    longest = max(max(one.load.capacity_bytes, one.load.used_bytes) for one in shown) / 2**30
    for row, one in enumerate(shown):
        _draw_ledger(axes, one, row, longest)
    axes.set_yticks(range(len(shown)), labels=[one.letter for one in shown])
    axes.set(xlim=(0, longest * 1.18), xlabel="GiB")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _draw_ledger(axes: Axes, one: MemoryClass, row: int, longest: float) -> None:
    """Items in GiB, with their figures where there is room."""
    load, left = one.load, 0.0
    for key in sorted(load.ledger, key=look.ledger_order):
        width, colour = load.ledger[key] / 2**30, look.ledger_colour(key)
        bar: dict[str, Any] = {"left": left, "height": 0.7, "color": colour, "edgecolor": "white", "linewidth": 0.6}
        axes.barh(row, width, gid=f"{one.letter}:{key}", **bar)
        if width > 0.05 * longest:
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": look.ink_on(colour)}
            axes.text(left + width / 2, row, look.gib(load.ledger[key]), **style)
        left += width
    capacity = load.capacity_bytes / 2**30
    axes.barh(row, capacity, height=0.7, fill=False, edgecolor=INK, linewidth=1.0, gid=f"{one.letter}:capacity")
    over = load.used_bytes > load.capacity_bytes
    end = f" {look.gib(load.used_bytes)} of {look.gib(load.capacity_bytes)} GiB"
    axes.text(max(left, capacity), row, end, va="center", fontsize=9, color="#B00020" if over else INK)


# Times


def _time_inches(phases: Sequence[PhasePlan]) -> float:
    return 0.26 * len(look.parts(phases)) + 0.95


def _draw_times(axes: Axes, phase: PhasePlan, phases: Sequence[PhasePlan]) -> None:
    """A bar per part of the step, on one scale over all phases."""
    parts = look.parts(phases)
    values = [phase.seconds.get(part, 0.0) for part in parts]
    colours = [look.PART_COLOURS.get(part, look.OTHER_COLOUR) for part in parts]
    axes.barh(range(len(parts)), values, height=0.7, color=colours, gid="seconds")
    longest = max(value for p in phases for value in p.seconds.values())
    for row, value in enumerate(values):
        if value:
            axes.text(value + longest * 0.015, row, look.seconds(value), va="center", fontsize=9)
    busy = phase.utilisation.get("all")
    axes.set_title(
        f"{look.seconds(phase.step_seconds)} a step" + (f", devices {busy:.0%} busy" if busy is not None else "")
    )
    first = phase is phases[0]
    axes.set(yticks=range(len(parts)), yticklabels=[look.part_name(part) if first else "" for part in parts])
    axes.set(xlim=(0, longest * 1.22), xlabel="seconds")
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _legends(figure: Figure, maps: SubFigure, classes: dict[MemoryKey, MemoryClass]) -> None:
    from matplotlib.patches import Patch

    names = {"trainer": "trainer rank", "learner": "learner engine", "explorer": "explorer engine"}
    roles = [Patch(color=look.ROLE_COLOURS[role], label=name) for role, name in names.items()]
    maps.legend(handles=roles, loc="outside lower center", ncols=3, fontsize=9)
    keys = sorted({key for one in classes.values() for key in one.load.ledger}, key=look.ledger_order)
    handles = [Patch(color=look.ledger_colour(key), label=look.ledger_name(key)) for key in keys]
    figure.legend(handles=handles, loc="outside lower center", ncols=int(figure.get_figwidth() / 2.1), fontsize=9)


def _words(plan: Plan, title: str) -> Figure:
    from matplotlib.figure import Figure

    reasons = [line for problem in plan.problems for line in textwrap.wrap(f"- {problem}", 110, subsequent_indent="  ")]
    figure = Figure(figsize=(11, 1.1 + 0.26 * len(reasons)))
    figure.text(0.02, 1 - 0.25 / figure.get_figheight(), title, va="top", fontsize=12.5)
    figure.text(
        0.02, 1 - 0.55 / figure.get_figheight(), "\n".join(["does not fit", *reasons]), va="top", linespacing=1.4
    )
    return figure
