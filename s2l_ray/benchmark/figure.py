"""pass@k over k on a logarithmic axis, with bands: a panel for each benchmark (the paper's figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.benchmark.table import largest_k
from s2l_ray.style import INK, MUTED, SERIES_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
MARKERS = "osD^vPX*"


def pass_at_k_figure(results: dict[str, Any]) -> Figure:
    """Draw the results of an evaluation, see `results.results`; in `STYLE`, by whoever saves it."""
    from matplotlib.figure import Figure

    names = [benchmark["name"] for benchmark in results["benchmarks"]]
    columns = 2 if len(names) == 4 else min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(6.6, 4.6 * columns), 4.3 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    models = list(dict.fromkeys(row["model"] for row in results["results"]))
    for number, (axes, name) in enumerate(zip(panels, names, strict=False)):
        _draw_panel(axes, results, name, models)
        if number % columns == 0:
            axes.set_ylabel(f"pass@k, {results['confidence']:.0%} interval over problems")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), columnspacing=2.5)
    return figure


def _draw_panel(axes: Axes, results: dict[str, Any], name: str, models: list[str]) -> None:
    rows = [row for row in results["results"] if row["benchmark"] == name]
    for row in rows:
        number = models.index(row["model"])
        _draw_curve(axes, row, SERIES_COLOURS[number % len(SERIES_COLOURS)], MARKERS[number % len(MARKERS)])
    found = [pair["crossover"] for pair in results["pairs"] if pair["benchmark"] == name and pair["crossover"]]
    for crossover in found:
        if crossover["k"] is not None:
            _draw_crossover(axes, crossover, rows)
    n = largest_k(results, name)
    ticks = [2**power for power in range(n.bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, labels=[str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_xlim(1 / 1.08, n * 1.08)
    axes.set_ylim(0, None)
    axes.set(title=name, xlabel=f"k (of {n} samples on each of {rows[0]['problems']} problems)")
    axes.grid(axis="y")


def _draw_curve(axes: Axes, row: dict[str, Any], colour: str, marker: str) -> None:
    ks = [int(k) for k in row["pass_at"]]
    values, low, high = ([found[key] for found in row["pass_at"].values()] for key in ("value", "low", "high"))
    axes.fill_between(ks, low, high, color=colour, alpha=0.16, linewidth=0)
    powers = [index for index, k in enumerate(ks) if k & (k - 1) == 0]
    axes.plot(
        ks, values, color=colour, linewidth=2, marker=marker, markersize=5.5, markevery=powers, label=row["model"]
    )


def _draw_crossover(axes: Axes, found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Where one curve overtakes another: a ring on it; with two curves alone a line as well, and the numbers."""
    challenger = next(row["pass_at"] for row in rows if row["model"] == found["challenger"])
    height = np.interp(found["k"], [int(k) for k in challenger], [one["value"] for one in challenger.values()])
    axes.plot([found["k"]], [height], "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, zorder=6)
    if len(rows) > 2:
        return
    axes.axvline(found["k"], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    n = rows[0]["samples"]
    low, high = (f"{end:.1f}" if end is not None else f">{n}" for end in (found["low"], found["high"]))
    right = found["k"] > n**0.5
    axes.annotate(
        f"k* = {found['k']:.1f}\n[{low}, {high}]",
        (found["k"], 0), xycoords=("data", "axes fraction"), xytext=(-6 if right else 6, 8),
        textcoords="offset points", ha="right" if right else "left", va="bottom", color=INK, fontsize=10,
    )  # fmt: skip
