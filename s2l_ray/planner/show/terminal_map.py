"""The placement as text: for each kind of node a line per role, with a block per actor over the devices it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.text import Text

from s2l_ray.placement.plan import PhasePlan
from s2l_ray.planner.show import look
from s2l_ray.planner.show.grouping import AlikeNodes, MemoryClass, MemoryKey, blocks, memory_key, node_groups, ranges

NODE_KINDS = 12
"""Kinds of node drawn for one phase; the JSON has all nodes."""
LABEL = 11
"""Columns of a line before the first device."""


def slot_maps(
    phases: Sequence[PhasePlan], classes: dict[MemoryKey, MemoryClass], width: int, colour: bool
) -> Iterator[tuple[str, list[Text]]]:
    """(heading, lines) per phase; consecutive phases with the same slots are one map."""
    for groups, alike in groupby(((node_groups(phase.gpus), phase) for phase in phases), key=lambda pair: pair[0]):
        heading = ", ".join(f"{phase.name} ({look.steps(phase.first_step, phase.last_step)})" for _, phase in alike)
        yield heading, list(_phase_map(groups, classes, width, colour))


def _phase_map(
    groups: list[AlikeNodes], classes: dict[MemoryKey, MemoryClass], width: int, colour: bool
) -> Iterator[Text]:
    for group in groups[:NODE_KINDS]:
        yield from _gpu_node(group, width, colour) if group.loads[0].gpu is not None else _cpu_node(group)
        yield _memory_line(group, classes, _cell(group, width))
    rest = groups[NODE_KINDS:]
    if rest:
        nodes = sum(len(group.nodes) for group in rest)
        yield Text(f"and {nodes} nodes of {len(rest)} more kinds; --json has all", "dim")


def _gpu_node(group: AlikeNodes, width: int, colour: bool) -> Iterator[Text]:
    cell = _cell(group, width)
    gpus = Text("".join(f"{load.gpu:^{cell}}" for load in group.loads), "dim")
    if len(group.nodes) == 1:
        yield Text.assemble((f"{f'node {group.nodes[0]}':<{LABEL}}", "bold"), gpus)
    else:
        yield Text.assemble((f"nodes {ranges(group.nodes)}", "bold"), (f"  {len(group.nodes)} alike", "dim"))
        yield Text.assemble(" " * LABEL, gpus)
    for role in group.occupants:
        line = Text(no_wrap=True, overflow="ellipsis").append(f"  {role:<{LABEL - 2}}", look.ROLE_COLOURS[role])
        for part in _block_cells(group, role, cell, colour):
            line.append_text(part)
        yield line.append(f" {_who(group, role)}", "dim")


def _cpu_node(group: AlikeNodes) -> Iterator[Text]:
    alike = f"  {len(group.nodes)} alike" if len(group.nodes) > 1 else ""
    yield Text.assemble((f"node{'s' * bool(alike)} {ranges(group.nodes)}", "bold"), (f"  CPUs{alike}", "dim"))
    for role in group.occupants:
        yield Text.assemble((f"  {role:<{LABEL - 2}}", look.ROLE_COLOURS[role]), _who(group, role))


def _memory_line(group: AlikeNodes, classes: dict[MemoryKey, MemoryClass], cell: int) -> Text:
    """The memory class of each device; `-` where nothing is on it."""
    letters = [classes[key].letter if (key := memory_key(load)) in classes else "-" for load in group.loads]
    if group.loads[0].gpu is None:
        return Text(f"  {'memory':<{LABEL - 2}}{letters[0]}", "dim")
    return Text(f"  {'memory':<{LABEL - 2}}" + "".join(f"{letter:^{cell}}" for letter in letters), "dim")


def _block_cells(group: AlikeNodes, role: str, cell: int, colour: bool) -> Iterator[Text]:
    """Blocks with a gap of one column between them, and blanks where the role has no device."""
    at = 0
    for block in blocks(group.loads, role):
        if block.first < at:  # a further actor of the role on a device that is drawn already; the line's end names it
            continue
        size = block.devices * cell - 1
        number = str(block.index) if len(group.nodes) == 1 else ""
        yield Text(" " * ((block.first - at) * cell))
        if colour:
            background = look.ROLE_COLOURS[role]
            yield Text(f"{number:^{size}}", f"bold {look.ink_on(background)} on {background}")
        else:
            yield Text(f"[{number:=^{size - 2}}]")
        yield Text(" ")
        at = block.first + block.devices
    yield Text(" " * ((len(group.loads) - at) * cell))


def _who(group: AlikeNodes, role: str) -> str:
    numbers = group.occupants[role]
    many = "s" if len(numbers) > 1 else ""
    if role == "trainer":
        return f"rank{many} {ranges(numbers)}"
    size = group.devices[role]
    return f"engine{many} {ranges(numbers)}" + (f", TP {size}" if size > 1 else "")


def _cell(group: AlikeNodes, width: int) -> int:
    """Columns of a device: what is left beside the label and the names of the actors, 4 to 9."""
    return max(4, min(9, (width - LABEL - 22) // len(group.loads)))
