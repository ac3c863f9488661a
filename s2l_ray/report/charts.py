"""The figures of a report. matplotlib is imported inside functions, and without pyplot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.kinds import Source
from s2l_ray.report.reading import RunFiles
from s2l_ray.results import EvaluationRecord
from s2l_ray.style import ACTIVITY_COLOURS, INK, MUTED, SERIES_COLOURS, SOURCE_COLOURS
from s2l_ray.timing.attribution import PARTS
from s2l_ray.timing.names import part_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMAL_95 = 1.96
WIDTH = 9.0
"""Inches."""
SHOWN_WHOLE = 1e5
"""Values from here on are shown in powers of ten."""


def rewards_figure(run: RunFiles) -> Figure:
    """Mean reward by source over steps, smoothed, with a band; held-out pass@1; below it the shares of a group."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    steps = np.array([record.step for record in run.records])
    for source in ("learner", "explorer"):
        _draw_reward(top, run, source)
    evaluations = run.learner_evaluations
    places = [float(record.step) for record in evaluations]
    _draw_evaluations(top, evaluations, places, SOURCE_COLOURS["learner"], "learner, held-out pass@1")
    if (explorer := run.evaluations.explorer) is not None:
        top.axhline(explorer.pass_at[1], color=SOURCE_COLOURS["explorer"], linewidth=1, linestyle=":")
        top.annotate(
            "explorer, held-out pass@1",
            (1, explorer.pass_at[1]),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=9,
            color=SOURCE_COLOURS["explorer"],
        )
    # Bands of a few rollouts are wide: they are cut off rather than made the measure of everything.
    shown = [value for line in top.get_lines() for value in np.asarray(line.get_ydata(), float) if not np.isnan(value)]
    top.set(ylabel="mean reward, pass@1", ylim=(0, 1.5 * max(shown) or 1))
    top.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=3, fontsize=9)
    explored = np.array([record.explorer_per_group for record in run.records])
    group = explored + np.array([record.learner_per_group for record in run.records])
    bottom.stackplot(
        steps, explored, group - explored, colors=[SOURCE_COLOURS["explorer"], SOURCE_COLOURS["learner"]], alpha=0.7
    )
    xlim = (min([*places, steps[0]]) - 0.5, steps[-1] + 0.5)  # the first evaluation is before the first step
    bottom.set(ylabel="of a group", xlabel="step", ylim=(0, group.max()), xlim=xlim)
    return figure


def band(values: Sequence[float], weights: Sequence[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean over the `width` (odd) steps around each step, and half the width of its 95% interval, [steps].

    The interval comes from how much the steps in the window differ (a ratio estimate, Cochran 1977, section 6.3), so it
    covers the draw of prompts and of rollouts; a slope within the window widens it.

    Args:
        values: mean of each step.
        weights: how many rollouts it is the mean of; 0: the step has none, and its value is ignored.

    Returns:
        NaN where the window has no rollouts; the half width also where only one step has some.
    """
    means, halves = np.full(len(values), np.nan), np.full(len(values), np.nan)
    for at in range(len(values)):
        window = slice(max(0, at - width // 2), at + width // 2 + 1)
        w = np.array(weights[window], dtype=float)
        x = np.where(w > 0, np.array(values[window], dtype=float), 0.0)
        if (count := np.count_nonzero(w)) > 0:
            means[at] = (w * x).sum() / w.sum()
        if count > 1:
            squares = (w**2 * (x - means[at]) ** 2).sum() * count / (count - 1)
            halves[at] = NORMAL_95 * squares**0.5 / w.sum()
    return means, halves


def window_of(steps: int) -> int:
    """How many steps are averaged: a tenth of them, odd, at least 3."""
    return max(3, steps // 10 | 1)


def _draw_reward(axes: Axes, run: RunFiles, source: Source) -> None:
    stats = [record.sources.get(source) for record in run.records]
    counts = [s.rollouts if s else 0 for s in stats]
    if not any(counts):
        return
    steps, colour = [record.step for record in run.records], SOURCE_COLOURS[source]
    means, half = band([s.reward if s else 0.0 for s in stats], counts, window_of(len(steps)))
    axes.plot(steps, means, color=colour, linewidth=1.8, label=f"{source}, reward in training")
    axes.fill_between(steps, means - half, means + half, color=colour, alpha=0.18, linewidth=0)


def _draw_evaluations(
    axes: Axes, records: Sequence[EvaluationRecord], xs: Sequence[float], colour: str, label: str | None
) -> None:
    if not records:
        return
    values = np.array([record.pass_at[1] for record in records])
    bounds = np.array([record.ci[1] for record in records]).T
    axes.errorbar(
        xs,
        values,
        yerr=np.abs(bounds - values),
        color=colour,
        fmt="o",
        linestyle="--" if len(records) > 1 else "none",
        linewidth=1,
        markersize=5,
        capsize=3,
        label=label,
    )


def _seconds(record: EvaluationRecord) -> float | None:
    return record.spent.seconds if record.spent else None


def _flops(record: EvaluationRecord) -> float | None:
    return record.spent.compute.flops if record.spent and record.spent.compute else None


COSTS: dict[str, Callable[[EvaluationRecord], float | None]] = {
    "step": lambda record: float(record.step),
    "seconds of training": _seconds,
    "FLOPs of rollouts and updates": _flops,
}
"""What held-out results are drawn over, where all runs know it."""


def held_out_figure(runs: Sequence[RunFiles]) -> Figure | None:
    """Held-out pass@1, a line for each run, over what it cost; None if nothing was evaluated."""
    from matplotlib.figure import Figure

    shown = [run for run in runs if run.learner_evaluations]
    if not shown:
        return None
    known = {
        label: cost
        for label, cost in COSTS.items()
        if all(cost(record) is not None for run in shown for record in run.learner_evaluations)
    }
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    for number, (axes, (label, cost)) in enumerate(
        zip(figure.subplots(1, len(known), sharey=True, squeeze=False)[0], known.items(), strict=True)
    ):
        places = [[cost(record) or 0.0 for record in run.learner_evaluations] for run in shown]
        unit = unit_of([x for place in places for x in place])
        apart = max(max(place) for place in places) / 100
        for at, (run, place, colour) in enumerate(zip(shown, places, _colours(len(shown)), strict=True)):
            # A little to the side, so that the bars of one place do not lie on each other.
            moved = [(x + apart * (at - (len(shown) - 1) / 2)) / unit for x in place]
            _draw_evaluations(axes, run.learner_evaluations, moved, colour, None if number else run.name)
        axes.set(xlabel=label + unit_text(unit), ylabel=None if number else "held-out pass@1")
        axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=4, fontsize=9)
    return figure


def unit_of(values: Sequence[float]) -> float:
    """The power of ten that large values are shown in."""
    largest = max(values)
    return 10.0 ** math.floor(math.log10(largest)) if largest >= SHOWN_WHOLE else 1.0


def unit_text(unit: float) -> str:
    """Such as " (1e12)", for the label of an axis."""
    return f" ({unit:.0e})".replace("e+", "e") if unit > 1 else ""


def pass_at_k_figure(runs: Sequence[RunFiles]) -> Figure | None:
    """pass@k over k after training, a line for each run, of one run also before it and of the explorer."""
    from matplotlib.figure import Figure

    curves: list[tuple[str, EvaluationRecord, str]] = []
    if len(runs) == 1:
        found = runs[0].evaluations
        named = [("explorer", found.explorer, SOURCE_COLOURS["explorer"]), ("learner before", found.before, MUTED)]
        curves += [(label, record, colour) for label, record, colour in named if record is not None]
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        newest = run.evaluations.newest
        if newest is not None and newest.step > 0:
            own = SOURCE_COLOURS["learner"] if len(runs) == 1 else colour
            curves.append((f"learner after step {newest.step}" if len(runs) == 1 else run.name, newest, own))
    if not curves or all(len(record.pass_at) < 2 for _, record, _ in curves):
        return None
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    for label, record, colour in curves:
        ks = sorted(record.pass_at)
        bounds = np.array([record.ci[k] for k in ks]).T
        axes.plot(ks, [record.pass_at[k] for k in ks], "o-", color=colour, markersize=5, label=label)
        axes.fill_between(ks, bounds[0], bounds[1], color=colour, alpha=0.15, linewidth=0)
    all_k = sorted({k for _, record, _ in curves for k in record.pass_at})
    axes.set_xscale("log", base=2)
    axes.set_xticks(all_k, labels=[str(k) for k in all_k])
    axes.minorticks_off()
    axes.set(xlabel="k", ylabel="held-out pass@k", ylim=(0, None))
    axes.grid(axis="y")
    axes.legend(loc="best", fontsize=9)
    return figure


def time_figure(run: RunFiles) -> Figure | None:
    """Seconds of each step by cause, stacked; None if the run did not record causes."""
    from matplotlib.figure import Figure

    if not all(record.parts for record in run.records):
        return None
    steps = [record.step for record in run.records]
    parts = {part: np.array([record.parts.get(part, 0.0) for record in run.records]) for part in PARTS}
    total = sum(values.sum() for values in parts.values())
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    base = np.zeros(len(steps))
    for part, values in parts.items():
        if values.sum() < 0.002 * total:
            continue
        label = f"{part_name(part)}  {values.sum() / total:.0%}"
        axes.bar(steps, values, bottom=base, width=1.0, color=ACTIVITY_COLOURS.get(part, INK), label=label)
        base += values
    axes.set(xlabel="step", ylabel="seconds", xlim=(steps[0] - 0.5, steps[-1] + 0.5))
    # A step that was evaluated or in which something died may take a hundred times as long as the others.
    usual = base - parts["evaluate"] - parts["checkpoint"]
    axes.set_ylim(0, 1.3 * float(np.quantile(usual, 0.98)))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    axes.grid(axis="y")
    return figure


def _colours(count: int) -> list[str]:
    return [SERIES_COLOURS[number % len(SERIES_COLOURS)] for number in range(count)]
