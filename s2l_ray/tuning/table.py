"""Trials as a table that fits a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from s2l_ray.display.text import duration
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.ranking import SEED, SeedMean
from s2l_ray.tuning.wording import STATUS_STYLES, metric_label, metric_text, short_name, value_text

AT, DONE, TIME = "at\nstep", "done", "steps\ntook"
"""Headings: the step at which the metric was measured, how many steps are done, and how long they took, without starts
of engines."""


def trial_table(about: StudyAbout, outcomes: Sequence[TrialOutcome], width: int, live: bool = False) -> Table:
    """A row for each trial, in the order given: with its values, or its label where it has one.

    Where the width is too small, the time is left out, then one of the two columns of steps, then the last keys; the
    last heading says how many keys.

    Args:
        about: the study.
        outcomes: the trials.
        width: of the terminal, in characters.
        live: while the study runs: intervals are shown only where the terminal is wide.
    """
    columns = _columns(about, outcomes, about.is_pass_at_k and (not live or width >= 110))
    styles = [
        STATUS_STYLES[outcome.status] if live else ("" if outcome.status == "finished" else "dim")
        for outcome in outcomes
    ]
    return fitted_table(columns, _keys(about), (TIME, AT if live else DONE), styles, width)


def seeds_table(about: StudyAbout, means: Sequence[SeedMean], width: int) -> Table:
    """A row for each combination of values that was repeated with several seeds, in the order given.

    Args:
        about: the study.
        means: as `ranking.over_seeds` returns them.
        width: of the terminal, in characters.
    """
    keys = [key for key in about.keys if key != SEED]
    unit = 100 if about.is_pass_at_k else 1
    columns = {
        **{heading(key, keys): [value_text(mean.values.get(key)) for mean in means] for key in keys},
        f"mean\n{metric_label(about)}": [metric_text(about, mean.mean, mean.interval) for mean in means],
        "less\nthe best": [_signed(about, mean, unit) for mean in means],
        "seeds": [_seeds(mean) for mean in means],
    }
    return fitted_table(columns, keys, ("seeds",), [""] * len(means), width)


def _seeds(mean: SeedMean) -> str:
    """How many seeds a mean is of: 2 of 3 where one was pruned."""
    count = len(mean.trials)
    return f"{count} of {count + mean.pruned}" if mean.pruned else str(count)


def _signed(about: StudyAbout, mean: SeedMean, unit: float) -> str:
    """The difference of a mean from the best one, with its interval: -0.3 [-1.8, +1.3]."""
    if mean.gap is None or mean.gap_interval is None:
        return f"{unit * mean.gap:+.4g}" if mean.gap else ""
    digits = ".1f" if about.is_pass_at_k else ".4g"
    gap, low, high = (format(unit * value, f"+{digits}") for value in (mean.gap, *mean.gap_interval))
    return f"{gap} [{low}, {high}]"


def fitted_table(
    columns: Mapping[str, Sequence[str]], keys: Sequence[str], least: Sequence[str], styles: Sequence[str], width: int
) -> Table:
    """A table of columns for which there is room: where there is not, the spaces get smaller, then some are left out.

    Args:
        columns: heading -> the cells of its rows.
        keys: dotted keys whose values are columns: the last ones are left out at the end, and counted.
        least: headings of the columns that are left out first, in this order.
        styles: of each row.
        width: of the terminal, in characters.
    """
    headings = [heading(key, keys) for key in keys]
    gap, dropped = _layout(columns, headings, least, width)
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="dim", pad_edge=False)
    shown = {name: cells for name, cells in columns.items() if name not in dropped}
    if left_out := len(dropped & set(headings)):
        shown[f"+{left_out}"] = [""] * len(styles)
    for name in shown:
        table.add_column(Text(name), no_wrap=True, vertical="bottom")
    for row, style in enumerate(styles):
        table.add_row(*(Text(cells[row]) for cells in shown.values()), style=style)
    return table


def _keys(about: StudyAbout) -> tuple[str, ...]:
    """Keys that have columns: labels say what their values are."""
    return () if about.labels else about.keys


def _columns(about: StudyAbout, outcomes: Sequence[TrialOutcome], intervals: bool) -> dict[str, list[str]]:
    """Heading -> cells."""
    return {
        "run" if about.labels else "trial": [short_name(about, o.name) for o in outcomes],
        **{heading(key, about.keys): [value_text(o.values.get(key)) for o in outcomes] for key in _keys(about)},
        metric_label(about).replace(" ", "\n"): [
            metric_text(about, o.metric, o.interval if intervals else None) for o in outcomes
        ],
        AT: ["" if o.metric_step is None else str(o.metric_step) for o in outcomes],
        DONE: [f"{o.step}/{o.steps}" for o in outcomes],
        "status": [o.status for o in outcomes],
        TIME: [duration(o.seconds) if o.seconds else "" for o in outcomes],
    }


def heading(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, on lines of one word each; with its section where another key ends alike."""
    section, _, last = key.rpartition(".")
    alike = sum(other.rpartition(".")[2] == last for other in keys) > 1
    return "\n".join(([section] if alike else []) + last.split("_"))


def _layout(
    columns: Mapping[str, Sequence[str]], keys: Sequence[str], least: Sequence[str], width: int
) -> tuple[int, set[str]]:
    """The spaces between columns, and the headings of those left out so that the rest fits: first of `least`."""
    widths = {name: max(map(len, (*name.split("\n"), *cells))) for name, cells in columns.items()}
    tries: list[tuple[int, set[str]]] = [(2, set()), (1, set())]
    tries += [(1, {*least[:count]}) for count in range(1, len(least) + 1)]
    tries += [(1, {*least, *keys[-count:]}) for count in range(1, len(keys) + 1)]
    for gap, dropped in tries:
        kept = [size for name, size in widths.items() if name not in dropped]
        counted = len("+9") + gap if dropped - {*least} else 0
        if sum(kept) + gap * (len(kept) - 1) + counted <= width:
            return gap, dropped
    return tries[-1]
