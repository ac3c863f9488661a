"""`s2l tune --dry-run`: the trials of a study and what each would get, with nothing started but Ray."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from actors.connection import connect
from actors.private_ray import end_private_ray
from s2l_ray.config.reference import as_yaml
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.machine.console import CommandConsole
from s2l_ray.tuning.driver import planned_trials
from s2l_ray.tuning.preparing import PreparedStudy, prepare
from s2l_ray.tuning.reading import load_study, split_overrides
from s2l_ray.tuning.samples import Sample


def rehearse(config: str, study: str, overrides: Sequence[str]) -> None:
    """Draw, check and plan the trials, and print them.

    Raises:
        S2LError: the study cannot be run.
    """
    of_config, of_study = split_overrides(overrides)
    with TaskDisplay() as display:
        prepared = prepare(config, load_study(study, of_study), of_config, FetchDisplay(display))
        owned = connect(prepared.base.cluster, display.say)
        try:
            planned_trials(prepared, display)
        finally:
            if owned:
                end_private_ray()
    CommandConsole().print(_table(prepared))


def _table(prepared: PreparedStudy) -> Table:
    title = (
        "the trials" if prepared.drawn else "values from all over the space, which are suggested while the study runs"
    )
    table = Table(title=f"{prepared.place}: {title}", title_justify="left", box=None)
    for name in ("trial", *prepared.space.keys):
        table.add_column(name, overflow="fold")
    for sample in prepared.samples:
        table.add_row(*_row(sample))
    return table


def _row(sample: Sample) -> list[str]:
    return [f"{sample.number:05d}", *(as_yaml(value) for value in sample.values.values())]
