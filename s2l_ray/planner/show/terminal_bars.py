"""Memory and times of a plan as bars and figures on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.placement.plan import DeviceLoad, PhasePlan
from s2l_ray.planner.show import look
from s2l_ray.planner.show.grouping import ROLES, MemoryClass, MemoryKey, memory_key

EIGHTHS = "▏▎▍▌▋▊▉█"
LABEL = 24
"""Columns of the names beside figures."""


def memory_section(
    phases: Sequence[PhasePlan], classes: dict[MemoryKey, MemoryClass], width: int, colour: bool
) -> tuple[str, list[RenderableType]]:
    """A heading; a bar per memory class against its capacity; their ledgers side by side."""
    device = "node" if next(iter(classes.values())).load.gpu is None else "GPU"
    body: list[RenderableType] = [_bars(classes, _where(phases, device), width, colour)]
    per_table = max(1, (width - LABEL) // 9)
    members = list(classes.values())
    for start in range(0, len(members), per_table):
        body += [Text(""), _ledgers(members[start : start + per_table])]
    return f"memory of one {device} at its fullest moment, GiB", body


def time_section(phases: Sequence[PhasePlan], width: int) -> Iterator[RenderableType]:
    """A column per phase: seconds of each part on one scale, utilisation, FLOPs. Columns as there is room."""
    columns = max(1, min(len(phases), (width - LABEL) // 18))
    bar = max(4, min(24, (width - LABEL) // columns - 11))
    longest = max((value for phase in phases for value in phase.seconds.values()), default=0.0)
    for start in range(0, len(phases), columns):
        if start:
            yield Text("")
        yield _time_table(phases[start : start + columns], bar, max(longest, 1e-12))
    yield Text("Each part by itself; parts overlap where neither devices nor weights are shared.", "dim")


def cells(sizes: Sequence[int], width: int) -> list[int]:
    """`width` cells in proportion to sizes; nothing that exists is left out while there is room."""
    total = sum(sizes) or 1
    exact = [size * width / total for size in sizes]
    given = [max(1 if size else 0, int(share)) for size, share in zip(sizes, exact, strict=True)]
    while sum(given) != width and any(given):
        step = 1 if sum(given) < width else -1
        candidates = [i for i, count in enumerate(given) if sizes[i] and count + step > 0] or range(len(sizes))
        given[max(candidates, key=lambda i: step * (exact[i] - given[i]))] += step
    return given


def _bars(classes: dict[MemoryKey, MemoryClass], where: dict[MemoryKey, str], width: int, colour: bool) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for key, one in classes.items():
        load = one.load
        figures = f"{look.gib(load.used_bytes)} of {look.gib(load.capacity_bytes)}"
        style = "bold red" if load.used_bytes > load.capacity_bytes else "bold"
        table.add_row(one.letter, _bar(load, width - 21, colour), Text(figures, style))
        table.add_row("", Text(where[key], "dim", overflow="ellipsis"), "")
    return table


def _where(phases: Sequence[PhasePlan], device: str) -> dict[MemoryKey, str]:
    """Memory key -> on how many devices in which phases."""
    counts: dict[MemoryKey, dict[str, int]] = {}
    for phase in phases:
        once = sum(other.name == phase.name for other in phases) == 1
        name = phase.name if once else f"{phase.name} from step {phase.first_step}"
        for load in phase.gpus:
            per_phase = counts.setdefault(memory_key(load), {})
            per_phase[name] = per_phase.get(name, 0) + 1
    return {key: _counted(per_phase, device) for key, per_phase in counts.items()}


def _counted(per_phase: dict[str, int], device: str) -> str:
    """8 GPUs in explore and mix, 4 in on-policy."""
    by_count: dict[int, list[str]] = {}
    for name, count in per_phase.items():
        by_count.setdefault(count, []).append(name)
    return "; ".join(
        f"{count} {device}{'s' if count > 1 else ''} in {', '.join(names)}" for count, names in by_count.items()
    )


def _bar(load: DeviceLoad, width: int, colour: bool) -> Text:
    """The ledger stacked on `width` cells; what is free is dotted."""
    keys = sorted(load.ledger, key=look.ledger_order)
    free = max(0, load.capacity_bytes - sum(load.ledger.values()))
    counts = cells([load.ledger[key] for key in keys] + [free], width)
    bar = Text(no_wrap=True, overflow="crop")
    for key, count in zip(keys, counts, strict=False):
        background = look.ledger_colour(key)
        style = f"{look.ink_on(background)} on {background}" if colour else ""
        bar.append(_segment(look.ledger_name(key), count, colour), style)
    return bar.append("·" * counts[-1], "dim")


def _segment(name: str, width: int, colour: bool) -> str:
    """A name, whole or without its role or left out; segments without colour begin with a bar."""
    edge, fill = ("", " ") if colour else ("|", "-")
    room = width - len(edge) - 2
    shown = next((text for text in (name, name.split(" ", 1)[-1]) if len(text) <= room), "")
    return (edge + (f" {shown} " if shown else "")).ljust(width, fill)[:width]


def _ledgers(members: Sequence[MemoryClass]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True, min_width=LABEL - 2)
    for one in members:
        table.add_column(one.letter, justify="right", no_wrap=True, min_width=7)
    keys = sorted({key for one in members for key in one.load.ledger}, key=look.ledger_order)
    for key in keys:
        name = Text.assemble(("■ ", look.ledger_colour(key)), look.ledger_name(key))
        table.add_row(name, *(_figure(one.load.ledger.get(key, 0)) for one in members))
    table.add_row(Text("used", "bold"), *(Text(look.gib(one.load.used_bytes), "bold") for one in members))
    table.add_row("free", *(_free(one.load) for one in members))
    return table


def _figure(count: int) -> Text:
    return Text(look.gib(count)) if count else Text("-", "dim")


def _free(load: DeviceLoad) -> Text:
    free = load.capacity_bytes - load.used_bytes
    return Text(look.gib(free)) if free >= 0 else Text(f"-{look.gib(-free)}", "bold red")


def _time_table(phases: Sequence[PhasePlan], bar: int, longest: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", style="dim", no_wrap=True, min_width=LABEL - 6)
    for phase in phases:
        heading = Text.assemble((phase.name, "bold"), (f" {look.steps(phase.first_step, phase.last_step)}", "dim"))
        table.add_column(heading, no_wrap=True, min_width=bar + 9)
    for part in look.parts(phases):
        colour = look.PART_COLOURS.get(part, look.OTHER_COLOUR)
        amounts = (_amount(phase.seconds.get(part, 0.0), longest, bar, colour) for phase in phases)
        table.add_row(look.part_name(part), *amounts)
    table.add_row(Text("whole step", "bold not dim"), *(Text(look.seconds(p.step_seconds), "bold") for p in phases))
    for role in (*ROLES, "all"):
        if any(role in phase.utilisation for phase in phases):
            colour = look.ROLE_COLOURS.get(role, look.OTHER_COLOUR)
            name = "all devices busy" if role == "all" else f"{role} busy"
            table.add_row(name, *(_share(phase.utilisation.get(role), bar, colour) for phase in phases))
    for source in ("explorer", "learner"):
        values = [getattr(phase, f"{source}_flops") for phase in phases]
        if any(values):
            table.add_row(f"{source} FLOPs", *(look.flops(value) for value in values))
    return table


def _amount(value: float, longest: float, width: int, colour: str) -> Text:
    if not value:
        return Text("-", "dim")
    return Text.assemble(f"{look.seconds(value):<9}", (_eighths(value / longest, width), colour))


def _share(share: float | None, width: int, colour: str) -> Text:
    if share is None:
        return Text("-", "dim")
    done = _eighths(share, width)
    return Text.assemble(f"{share:<9.0%}", (done, colour), ("·" * (width - len(done)), "dim"))


def _eighths(share: float, width: int) -> str:
    """A bar of `share` of `width` cells, in eighths; a sliver for the smallest."""
    count = max(1, round(min(share, 1.0) * width * 8)) if share > 0 else 0
    whole, rest = divmod(count, 8)
    return EIGHTHS[-1] * whole + (EIGHTHS[rest - 1] if rest else "")
