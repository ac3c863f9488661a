"""The figure of an experiment: a curve for each arm, with a band of its interval over seeds."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.experiments.comparison import Arm, Comparison
from s2l_ray.experiments.curves import curve_of
from s2l_ray.experiments.wording import AXIS_LABELS, is_percent, label_of, shown
from s2l_ray.style import INK, MUTED, SERIES_COLOURS, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":")
"""Of arms beyond the number of colours."""
MOST_PANELS = 3
TITLE_CHARACTERS = 9
"""Of an inch of the title."""


def draw_experiment(comparison: Comparison, path: Path) -> Path | None:
    """Draw the figure as a PNG file.

    Returns:
        Its path; None if no run has finished.

    Raises:
        DiskError: it cannot be written.
    """
    if not any(arm.runs for arm in comparison.arms):
        return None
    return save_png(lambda: experiment_figure(comparison), path)


def experiment_figure(comparison: Comparison) -> Figure:
    """A panel for the metric that is tested, and for up to two of the further ones."""
    from matplotlib.figure import Figure

    file = comparison.file
    metrics = list(dict.fromkeys((file.metric, *file.also)))[:MOST_PANELS]
    figure = Figure(figsize=(6.4 * len(metrics) + 0.4, 5.4), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_panel(axes, comparison, metric)
    width = int(TITLE_CHARACTERS * figure.get_figwidth())  # by hand: matplotlib reads what it wraps as TeX
    title = "\n".join(textwrap.wrap(file.question or file.name, width))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=min(4, len(labels)), fontsize=10)
    seeds = len(file.seed_list)
    band = f"bands: {comparison.confidence:.0%} intervals of the mean over {seeds} seeds"
    figure.text(0.995, 0.005, band, ha="right", va="bottom", fontsize=8, color=MUTED)
    return figure


def _draw_panel(axes: Axes, comparison: Comparison, metric: str) -> None:
    for number, arm in enumerate(comparison.arms):
        _draw_arm(axes, comparison, arm, metric, number)
    file = comparison.file
    if comparison.place is not None and file.at is not None and file.at.axis == file.axis:
        axes.axvline(comparison.place, color=MUTED, linewidth=1, linestyle=":")
    axes.set_xlabel(AXIS_LABELS[file.axis])
    axes.set_ylabel(label_of(metric))
    axes.margins(x=0.02)
    axes.grid(axis="y")


def _draw_arm(axes: Axes, comparison: Comparison, arm: Arm, metric: str, number: int) -> None:
    axis = comparison.file.axis
    points = [p for p in curve_of(arm, metric, comparison.confidence) if math.isfinite(p.at[axis])]
    if not points:
        return
    colour = INK if arm.name == comparison.baseline else SERIES_COLOURS[number % len(SERIES_COLOURS)]
    places = [point.at[axis] for point in points]
    dashes = DASHES[number // len(SERIES_COLOURS) % len(DASHES)]
    label = f"{arm.name} (baseline)" if arm.name == comparison.baseline else arm.name
    axes.plot(
        places, [shown(metric, p.mean) for p in points], dashes, color=colour, linewidth=2, marker="o", markersize=4,
        label=label,
    )  # fmt: skip
    most = 1.0 if is_percent(metric) else math.inf  # of two seeds an interval may be wider than all that is possible
    least = 0.0 if is_percent(metric) else -math.inf
    bounds = [
        (shown(metric, max(least, p.interval[0])), shown(metric, min(most, p.interval[1])))
        for p in points
        if p.interval
    ]
    if len(bounds) == len(points):
        lows, highs = zip(*bounds, strict=True)
        axes.fill_between(places, lows, highs, color=colour, alpha=0.13, linewidth=0)
