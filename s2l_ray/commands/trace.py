"""`s2l trace`: where a run's time went, as a table and as a timeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rich.table import Table

from s2l_ray.errors import ConfigError
from s2l_ray.results import StepRecord
from s2l_ray.step_log import StepLog
from s2l_ray.style import save_png
from s2l_ray.timing.attribution import PARTS
from s2l_ray.timing.drawing import kinds_of_steps, run_panels, timeline_figure, typical_windows
from s2l_ray.timing.trace import read_trace


def trace_command(run: Path, window: str | None, png: Path | None) -> int:
    """Print the table; draw the timeline if it is wanted. Returns the exit status."""
    from rich.console import Console

    records = _read_steps(run)
    shown = _steps_between(records, window) if window else records
    Console().print(parts_table(shown))
    trace = Path(run) / "trace.json"
    if png is not None:
        windows = {f"steps {window}": [r.step for r in shown]} if window else typical_windows(records)
        panels = run_panels(read_trace(trace), windows) if trace.exists() else []
        if not panels:
            raise ConfigError(f"{trace} is missing, or has none of these steps")
        print(f"\nwrote {save_png(lambda: timeline_figure(panels, f'{run.name}: who did what when'), png)}")
    print(f"\n{trace} opens in https://ui.perfetto.dev and chrome://tracing")
    return 0


def _read_steps(run: Path) -> list[StepRecord]:
    """The steps of a run directory.

    Raises:
        ConfigError: it is none, or was made by a version that did not record parts.
    """
    records = StepLog(Path(run) / "steps.jsonl").read()
    if not records:
        raise ConfigError(f"{run} is no run directory with steps: it has no steps.jsonl, or an empty one")
    if not all(record.parts for record in records):
        raise ConfigError(f"{run} was made by a version that did not record the parts of a step")
    return records


def _steps_between(records: Sequence[StepRecord], window: str) -> list[StepRecord]:
    """The steps of "12-15" or "12".

    Raises:
        ConfigError: that is no such range, or the run has no step in it.
    """
    first, _, last = window.partition("-")
    if not (first.isdigit() and (last or first).isdigit()):
        raise ConfigError(f"--steps {window}: give a step or a range, such as 12 or 12-15")
    found = [record for record in records if int(first) <= record.step <= int(last or first)]
    if not found:
        raise ConfigError(f"--steps {window}: the run has steps {records[0].step} to {records[-1].step}")
    return found


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
