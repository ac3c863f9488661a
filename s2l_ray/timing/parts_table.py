"""Where a run's time went, as a table: the mean seconds of every part of a step, by kind of step."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from rich.table import Table

from s2l_ray.results import StepRecord
from s2l_ray.timing.attribution import PARTS
from s2l_ray.timing.drawing import kinds_of_steps


def parts_table(records: Sequence[StepRecord]) -> Table:
    """Mean seconds of every part, a column for each kind of step, and how busy actors were."""
    kinds = kinds_of_steps(records)
    table = Table(box=None, padding=(0, 3, 0, 0), title="mean seconds of a step", title_justify="left")
    table.add_column("", no_wrap=True, min_width=max(map(len, PARTS)))
    for kind, own in kinds.items():
        heading = "\n".join([*kind.split(), f"{len(own)} step{'s' * (len(own) > 1)}"])
        table.add_column(heading, justify="right", no_wrap=True, min_width=10)
    table.add_column("", no_wrap=True, overflow="ellipsis", style="dim")
    columns = list(kinds.values())
    totals = [mean(record.seconds["total"] for record in own) for own in columns]
    for part, meaning in PARTS.items():
        values = [mean(record.parts.get(part, 0.0) for record in own) for own in columns]
        if any(values):
            cells = [_cell(value, total) for value, total in zip(values, totals, strict=True)]
            table.add_row(part, *cells, meaning)
    table.add_row("total", *(f"{total:.3f}     " for total in totals), "", style="bold")
    for role in dict.fromkeys(role for record in records for role in record.busy):
        shares = [[record.busy[role] for record in own if role in record.busy] for own in columns]
        table.add_row(f"{role} busy", *(f"{mean(own):4.0%}" if own else "" for own in shares), "")
    return table


def _cell(value: float, total: float) -> str:
    return f"{value:.3f} {value / total:4.0%}" if value else ""
