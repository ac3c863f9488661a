"""`s2l trace`: where a run's time went, as a table and as a timeline."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command, png_file
from s2l_ray.errors import ConfigError
from s2l_ray.machine.places import existing_output

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands
    from s2l_ray.results import StepRecord

DESCRIPTION = """\
Say where a run's time went: the mean seconds of every part of a step, and, with
--png, a timeline of which actor did what when. RUN/trace.json opens in
https://ui.perfetto.dev and chrome://tracing, also while the run lasts."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "trace", run, help="say where a run's time went", description=DESCRIPTION)
    parser.add_argument("directory", type=existing_output, metavar="RUN", help="run directory")
    parser.add_argument(
        "--steps",
        metavar="A-B",
        help="only these steps (default: all in the table, a few of each kind in the timeline)",
    )
    parser.add_argument("--png", type=png_file, metavar="FILE", help="draw the timeline")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; draw the timeline if it is wanted."""
    from s2l_ray.machine.console import CommandConsole
    from s2l_ray.machine.disk import output_file
    from s2l_ray.timing.parts_table import parts_table

    directory: Path = arguments.directory
    if arguments.png is not None:
        output_file(arguments.png, "--png")
    records = _read_steps(directory)
    shown = _steps_between(records, arguments.steps) if arguments.steps else records
    CommandConsole().print(parts_table(shown))
    trace = directory / "trace.json"
    if arguments.png is not None:
        chosen = {f"steps {arguments.steps}": [record.step for record in shown]} if arguments.steps else None
        print(f"\nwrote {_draw_timeline(records, chosen, trace, arguments.png)}")
    print(f"\n{trace} opens in https://ui.perfetto.dev and chrome://tracing")
    return 0


def _draw_timeline(records: list[StepRecord], chosen: dict[str, list[int]] | None, trace: Path, png: Path) -> Path:
    """Draw the chosen steps, by the title of their panel; without a choice, a few of each kind.

    Raises:
        ConfigError: the trace is missing, or has none of these steps.
    """
    from s2l_ray.style import save_png
    from s2l_ray.timing.drawing import run_panels, timeline_figure, typical_windows
    from s2l_ray.timing.trace import read_trace

    panels = run_panels(read_trace(trace), chosen or typical_windows(records)) if trace.exists() else []
    if not panels:
        raise ConfigError(f"{trace} is missing, or has none of these steps")
    return save_png(lambda: timeline_figure(panels, f"{trace.parent.name}: who did what when"), png)


def _read_steps(directory: Path) -> list[StepRecord]:
    """The steps of a run directory.

    Raises:
        ConfigError: it is not a run directory, or its run was made by a version that did not record parts.
    """
    from s2l_ray.step_log import StepLog

    records = StepLog(directory / "steps.jsonl").read()
    if not records:
        raise ConfigError(f"{directory} is no run directory with steps: it has no steps.jsonl, or an empty one")
    if not all(record.parts for record in records):
        raise ConfigError(f"{directory} was made by a version that did not record the parts of a step")
    return records


def _steps_between(records: Sequence[StepRecord], window: str) -> list[StepRecord]:
    """The steps of "12-15" or "12".

    Raises:
        ConfigError: that is no such range, or the run has no step in it.
    """
    first, _, last = window.partition("-")
    if not all(re.fullmatch("[0-9]{1,18}", step) for step in (first, last or first)):
        raise ConfigError(f"--steps {window}: give a step or a range, such as 12 or 12-15")
    found = [record for record in records if int(first) <= record.step <= int(last or first)]
    if not found:
        raise ConfigError(f"--steps {window}: the run has steps {records[0].step} to {records[-1].step}")
    return found
