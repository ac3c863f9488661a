"""Trials as a table that fits a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from s2l_ray.display.text import duration
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.wording import STATUS_STYLES, metric_label, metric_text, short_name, value_text

AT, DONE, TIME = "at\nstep", "done", "time"
"""Headings: the step at which the metric was measured, how many steps are done, and how long they took."""


def trial_table(about: StudyAbout, outcomes: Sequence[TrialOutcome], width: int, live: bool = False) -> Table:
    """A row for each trial, in the order given.

    Where the width is too small, the time is left out, then one of the two columns of steps, then the last keys; the
    last heading says how many keys.

    Args:
        about: the study.
        outcomes: the trials.
        width: of the terminal, in characters.
        live: while the study runs: intervals are shown only where the terminal is wide.
    """
    columns = _columns(about, outcomes, about.is_pass_at_k and (not live or width >= 110))
    keys = [_heading(key, about.keys) for key in about.keys]
    gap, dropped = _layout(columns, keys, (TIME, AT if live else DONE), width)
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="dim", pad_edge=False)
    shown = {heading: cells for heading, cells in columns.items() if heading not in dropped}
    if left_out := len(dropped & set(keys)):
        shown[f"+{left_out}"] = [""] * len(outcomes)
    for heading in shown:
        table.add_column(Text(heading), no_wrap=True, vertical="bottom")
    for row, outcome in enumerate(outcomes):
        style = STATUS_STYLES[outcome.status] if live else ("" if outcome.status == "finished" else "dim")
        table.add_row(*(Text(cells[row]) for cells in shown.values()), style=style)
    return table


def _columns(about: StudyAbout, outcomes: Sequence[TrialOutcome], intervals: bool) -> dict[str, list[str]]:
    """Heading -> cells."""
    return {
        "trial": [short_name(about, o.name) for o in outcomes],
        **{_heading(key, about.keys): [value_text(o.values.get(key)) for o in outcomes] for key in about.keys},
        metric_label(about).replace(" ", "\n"): [
            metric_text(about, o.metric, o.interval if intervals else None) for o in outcomes
        ],
        AT: ["" if o.metric_step is None else str(o.metric_step) for o in outcomes],
        DONE: [f"{o.step}/{o.steps}" for o in outcomes],
        "status": [o.status for o in outcomes],
        TIME: [duration(o.seconds) if o.seconds else "" for o in outcomes],
    }


def _heading(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, on lines of one word each; with its section where another key ends alike."""
    section, _, last = key.rpartition(".")
    alike = sum(other.rpartition(".")[2] == last for other in keys) > 1
    return "\n".join(([section] if alike else []) + last.split("_"))


def _layout(
    columns: dict[str, list[str]], keys: Sequence[str], least: Sequence[str], width: int
) -> tuple[int, set[str]]:
    """The spaces between columns, and the headings of those left out so that the rest fits: first of `least`."""
    widths = {heading: max(map(len, (*heading.split("\n"), *cells))) for heading, cells in columns.items()}
    tries: list[tuple[int, set[str]]] = [(2, set()), (1, set())]
    tries += [(1, {*least[:count]}) for count in range(1, len(least) + 1)]
    tries += [(1, {*least, *keys[-count:]}) for count in range(1, len(keys) + 1)]
    for gap, dropped in tries:
        kept = [size for heading, size in widths.items() if heading not in dropped]
        counted = len("+9") + gap if dropped - {*least} else 0
        if sum(kept) + gap * (len(kept) - 1) + counted <= width:
            return gap, dropped
    return tries[-1]
