"""One page of HTML that needs nothing else: no network, no scripts, no files beside it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.machine.disk import write_whole
from s2l_ray.redaction import redact
from s2l_ray.report.charts import held_out_figure, pass_at_k_figure, rewards_figure, time_figure, window_of
from s2l_ray.report.facts import NOTHING, facts_of
from s2l_ray.report.planned import SKIPPED, devices_of, phases_of
from s2l_ray.report.reading import RunFiles, guarded
from s2l_ray.report.samples import samples_of
from s2l_ray.report.sections import Drawn, ResultSection, RunSection, Tile, drawn
from s2l_ray.report.settings import differing, not_default
from s2l_ray.style import SERIES_COLOURS
from s2l_ray.version import VERSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES_DARK = ("#56B4E9", "#F0955A", "#2FC49A", "#E3A3C8", "#F2C14E", "#8ED1F5", "#B59BD0", "#C9A86A")
"""`style.SERIES_COLOURS` on a dark page."""


def write_report(runs: Sequence[RunFiles], path: Path, results: Sequence[ResultSection] = ()) -> None:
    """Write the page.

    Args:
        runs: those that it is about, if any; their names differ.
        path: of the HTML file.
        results: what else it is about.

    Raises:
        DataError: a file of a run is not what this version of s2l-ray writes.
        DiskError: the page cannot be written.
    """
    write_whole(path, page(runs, results))


def page(runs: Sequence[RunFiles], results: Sequence[ResultSection] = ()) -> str:
    """The page as text; see `write_report`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("s2l_ray.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    sections = [guarded(run.directory, partial(_run_section, run, alone=len(runs) == 1)) for run in runs]
    titles = [*(e.title for e in results), *(run.name for run in runs)]
    return environment.get_template("page.html.j2").render(
        title=titles[0] if len(titles) == 1 else f"{', '.join(titles[:3])}{' and others' if len(titles) > 3 else ''}",
        subtitle=f"Written {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z} by s2l-ray {VERSION}",
        contents=_contents(runs, results),
        tiles=guarded(runs[0].directory, lambda: tiles_of(runs[0])) if len(runs) == 1 and not results else [],
        results=results,
        names=[run.name for run in runs],
        facts=guarded(runs[0].directory, lambda: facts_of(runs)) if runs else [],
        shared_figures=_shared_figures(runs),
        differing=differing(runs) if len(runs) > 1 else [],
        runs=sections,
        skipped=SKIPPED,
        series=SERIES_COLOURS,
        series_dark=SERIES_DARK,
    )


def _contents(runs: Sequence[RunFiles], results: Sequence[ResultSection]) -> list[tuple[str, str]]:
    found = [(f"result-{number}", one.title) for number, one in enumerate(results, 1)]
    if runs:
        found.append(("results", "Results" if len(runs) == 1 else "Side by side"))
    if len(runs) > 1 and differing(runs):
        found.append(("differences", "Configurations"))
    return found + [
        (f"run-{number}", run.name if len(runs) > 1 else "Plan, rollouts and settings")
        for number, run in enumerate(runs, 1)
    ]


def tiles_of(run: RunFiles) -> list[Tile]:
    """The most important numbers of one run."""
    sections = {section.title: section for section in facts_of([run])}
    rows = {row.label: row.cells[0] for section in sections.values() for row in section.rows if not section.columns}
    tiles = []
    if (held_out := sections.get("Held-out problems")) is not None:
        first = dict(zip(held_out.columns, held_out.rows[0].cells, strict=True))
        for column, unit, label in (
            ("learner after", "%", "held-out pass@1 after training"),
            ("change", " points", "of change by training, paired by problem"),
        ):
            if first[column] != NOTHING:
                value, _, interval = first[column].partition(" ")
                tiles.append(Tile(value + unit, f"{interval} {label}"))
    wanted = (
        ("all steps", f"for {len(run.records)} steps"),
        ("response tokens per second", "response tokens per second"),
        ("rollout compute saved", "of GRPO's rollout compute saved"),
    )
    return tiles + [Tile(rows[label], text) for label, text in wanted if rows.get(label, NOTHING) != NOTHING]


def _shared_figures(runs: Sequence[RunFiles]) -> list[Drawn]:
    if len(runs) < 2:
        return []
    level = f"{runs[0].config.evaluation.confidence:.0%}"
    return drawn(
        "shared",
        {
            f"Held-out pass@1 over what training cost; bars: {level} bootstrap intervals over problems.": lambda: (
                held_out_figure(runs)
            ),
            f"Held-out pass@k after training; bands: {level} intervals over problems.": lambda: pass_at_k_figure(runs),
        },
    )


def _run_section(run: RunFiles, *, alone: bool) -> RunSection:
    return RunSection(
        title="Plan, rollouts and settings" if alone else run.name,
        figures=list(_figures(run, alone)),
        phases=phases_of(run),
        devices=devices_of(run),
        prompts=samples_of(run),
        settings=not_default(run),
        configuration=redact(run.config.to_yaml()),
    )


def _figures(run: RunFiles, alone: bool) -> list[Drawn]:
    level = f"{run.config.evaluation.confidence:.0%}"
    rewards = (
        f"Mean reward in training by source, over {window_of(len(run.records))} steps, with the 95% interval of that "
        f"mean from how much the steps differ; held-out pass@1 with {level} intervals over problems; below, who "
        "samples a group."
    )
    time = "Seconds of each step by cause; a step that lasts much longer than the others is cut off."
    curves: dict[str, Callable[[], Figure | None]] = {rewards: lambda: rewards_figure(run)}
    if alone:
        curves[f"Held-out pass@k; bands: {level} intervals over problems."] = lambda: pass_at_k_figure([run])
    return drawn(str(run.directory), curves | {time: lambda: time_figure(run)})
