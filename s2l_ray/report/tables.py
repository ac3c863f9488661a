"""Runs side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.report.facts import Facts, facts_of
from s2l_ray.report.reading import RunFiles
from s2l_ray.report.settings import differing


def comparison(runs: Sequence[RunFiles]) -> RenderableType:
    """The keys in which the runs differ, then their numbers."""
    names = [run.name for run in runs]
    shown: list[RenderableType] = []
    if settings := differing(runs):
        table = _table("How the configurations differ", names)
        for setting in settings:
            table.add_row(setting.key, *map(Text, setting.values))
        shown += [table, Text("")]
    else:
        shown.append(Text("The configurations do not differ.\n"))
    for section in facts_of(runs):
        shown += [_facts(section, names), Text("")]
    return Group(*shown)


def _facts(section: Facts, names: Sequence[str]) -> RenderableType:
    table = _table(section.title, section.columns or names)
    for row in section.rows:
        table.add_row(row.label, *map(Text, row.cells))
    return Group(table, Text(section.note, style="dim")) if section.note else table


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 3, 0, 0))
    table.add_column("", style="dim", max_width=36)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    return table
