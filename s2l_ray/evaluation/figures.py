"""The figures of a run, drawn from its summary.

    learning.png    reward by source and held-out pass@1 over steps, above the explorer's share of each group
    pass_at_k.png   held-out pass@k of the learner before and after, and of the explorer
    time.png        seconds per part of each step
    timeline.png    who did what when, in some typical steps

matplotlib is imported inside functions, and without pyplot: no backend is chosen for the caller's process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.evaluation.summary import SOURCES
from s2l_ray.kinds import Source
from s2l_ray.machine.disk import replacing
from s2l_ray.results import StepRecord
from s2l_ray.style import ACTIVITY_COLOURS, INK, SOURCE_COLOURS, STYLE
from s2l_ray.timing.drawing import run_panels, timeline_figure, typical_windows
from s2l_ray.timing.names import part_name
from s2l_ray.timing.trace import read_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE = "#8ab8d6"
"""The learner before training: its colour, lighter."""


def draw_figures(summary: dict[str, Any], directory: Path, trace: Path | None = None) -> list[Path]:
    """Draw the figures that a run has data for, as PNG files.

    Args:
        summary: see `evaluation.summary`.
        directory: of the files; made if it does not exist.
        trace: the run's `trace.json`.

    Returns:
        Paths of the files.

    Raises:
        DiskError: they cannot be written.
    """
    from matplotlib import rc_context

    directory = Path(directory)
    paths = []
    with rc_context(STYLE):
        for name, figure in (
            ("learning", learning_figure(summary)),
            ("pass_at_k", pass_at_k_figure(summary)),
            ("time", time_figure(summary)),
            ("timeline", typical_steps_figure(summary, trace) if trace and trace.exists() else None),
        ):
            if figure is not None:
                paths.append(directory / f"{name}.png")
                with replacing(paths[-1]) as partial:
                    figure.savefig(partial, format="png", dpi=150)
    return paths


def learning_figure(summary: dict[str, Any]) -> Figure | None:
    """Reward by source per step (light: each step, bold: mean over nearby steps), pass@1, and shares of the groups."""
    from matplotlib.figure import Figure

    if not summary["steps"]:
        return None
    steps = np.array([s["step"] for s in summary["steps"]])
    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for source in SOURCES:
        _draw_reward(top, steps, summary["rewards"][source], source)
    _draw_pass_at_1(top, summary["evaluation"], _level(summary))
    top.set(title=f"{summary['name']}: learning", ylabel="mean reward, pass@1", ylim=(0, None))
    top.grid(axis="y")
    _draw_shares(bottom, steps, summary["steps"])
    figure.legend(loc="outside lower center", ncols=2, columnspacing=3)
    _integer_steps(bottom)
    return figure


def pass_at_k_figure(summary: dict[str, Any]) -> Figure | None:
    """pass@k over k on a logarithmic axis, with confidence intervals; None when nothing was evaluated."""
    from matplotlib.figure import Figure

    evaluation = summary["evaluation"]
    curves = [
        ("explorer", evaluation["explorer"], SOURCE_COLOURS["explorer"], "s"),
        ("learner before", evaluation["before"], BEFORE, "o"),
        ("learner after", evaluation["after"], SOURCE_COLOURS["learner"], "o"),
    ]
    curves = [curve for curve in curves if curve[1]]
    if not curves:
        return None
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    all_k = sorted({k for _, record, _, _ in curves for k in _ks(record)})
    for index, (label, record, colour, marker) in enumerate(curves):
        # A few percent to the side, so that the error bars of one k do not lie on each other.
        shift = 1.03 ** (index - (len(curves) - 1) / 2)
        _draw_points(axes, _ks(record), record, shift, label=label, color=colour, marker=marker)
    axes.set_xscale("log", base=2)
    axes.set_xticks(all_k, labels=[str(k) for k in all_k])
    axes.minorticks_off()
    axes.set_xlim(min(all_k) / 1.25, max(all_k) * 1.25)
    record = curves[-1][1]
    axes.set(
        title=f"{summary['name']}: held-out pass@k",
        xlabel=f"k (of {record['samples']} samples on each of {record['problems']} problems)",
        ylabel=f"pass@k ({_level(summary)})",
        ylim=(0, None),
    )
    axes.grid(axis="y")
    axes.legend(loc="best")
    return figure


def time_figure(summary: dict[str, Any]) -> Figure | None:
    """Stacked wall-clock seconds per part of each step; per phase, where a run did not record parts."""
    from matplotlib.figure import Figure

    if not summary["steps"]:
        return None
    steps = [s["step"] for s in summary["steps"]]
    parts = _part_seconds(summary["steps"])
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    base, total = np.zeros(len(steps)), sum(values.sum() for values in parts.values())
    for part, values in parts.items():
        share = f"{part_name(part)}  {values.sum():.1f} s ({values.sum() / total:.0%})" if total else part_name(part)
        axes.bar(
            steps,
            values,
            bottom=base,
            width=0.9 if len(steps) < 100 else 1.0,
            color=ACTIVITY_COLOURS.get(part, INK),
            label=share,
        )
        base += values
    axes.set(title=f"{summary['name']}: where the time goes", xlabel="step", ylabel="seconds")
    axes.grid(axis="y")
    # In the order of the stack, beside it: bars may fill the whole width.
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), title="sum over steps")
    axes.set_xlim(steps[0] - 1, steps[-1] + 1)
    _integer_steps(axes)
    return figure


def typical_steps_figure(summary: dict[str, Any], trace: Path) -> Figure | None:
    """The timeline of a few steps of each kind that the run has; None if the trace has none of them."""
    panels = run_panels(read_trace(trace), typical_windows([StepRecord.from_json(row) for row in summary["steps"]]))
    return timeline_figure(panels, f"{summary['name']}: who did what when") if panels else None


def smooth(values: Sequence[float | None], width: int) -> np.ndarray:
    """Mean over the `width` (odd) steps around each step that have a value, float64 [steps]; NaN where it has none."""
    series = np.array([np.nan if v is None else v for v in values], dtype=float)
    known = ~np.isnan(series)
    window = np.ones(width)
    sums = np.convolve(np.where(known, series, 0.0), window)[width // 2 : width // 2 + len(series)]
    counts = np.convolve(known.astype(float), window)[width // 2 : width // 2 + len(series)]
    return np.where(known, sums / np.maximum(counts, 1), np.nan)


def _draw_reward(axes: Axes, steps: np.ndarray, rewards: Sequence[float | None], source: Source) -> None:
    if all(reward is None for reward in rewards):
        return
    width = max(1, len(steps) // 10) | 1
    raw = np.array([np.nan if r is None else r for r in rewards], dtype=float)
    colour = SOURCE_COLOURS[source]
    axes.plot(steps, raw, color=colour, alpha=0.3, linewidth=1)
    few = "." if np.count_nonzero(~np.isnan(raw)) < 4 else None  # one point alone would make no line
    label = f"{source} reward, training" + (f" (mean of {width} steps)" if width > 1 else "")
    axes.plot(steps, smooth(rewards, width), color=colour, linewidth=2.2, marker=few, label=label)


def _draw_pass_at_1(axes: Axes, evaluation: dict[str, Any], level: str) -> None:
    learner = [r for r in (evaluation["before"], *evaluation["during"], evaluation["after"]) if r]
    learner = list({r["step"]: r for r in learner}.values())
    marks = [(f"learner pass@1, held out ({level})", learner, SOURCE_COLOURS["learner"], "o")]
    marks += [
        (
            f"explorer pass@1, held out ({level})",
            [r for r in [evaluation["explorer"]] if r],
            SOURCE_COLOURS["explorer"],
            "s",
        )
    ]
    for label, records, colour, marker in marks:
        if records:
            values = [r["pass@1"] for r in records]
            axes.errorbar(
                [r["step"] for r in records], values, yerr=_errors(records, 1), color=colour, ecolor=INK, label=label,
                linestyle="", marker=marker, markersize=8, markeredgecolor=INK, capsize=4, elinewidth=1.2, zorder=5,
            )  # fmt: skip


def _draw_shares(axes: Axes, steps: np.ndarray, rows: list[dict[str, Any]]) -> None:
    explorer = np.array([r["explorer_per_group"] for r in rows])
    learner = np.array([r["learner_per_group"] for r in rows])
    axes.bar(steps, explorer, width=1.0, color=SOURCE_COLOURS["explorer"], alpha=0.8, linewidth=0)
    axes.bar(steps, learner, bottom=explorer, width=1.0, color=SOURCE_COLOURS["learner"], alpha=0.8, linewidth=0)
    size = int((explorer + learner).max())
    axes.set(xlabel="step", ylabel="rollouts\nper group", ylim=(0, size), yticks=[0, size])
    for values, base, name in ((explorer, np.zeros_like(explorer), "explorer"), (learner, explorer, "learner")):
        if values.sum() > 0.1 * (explorer + learner).sum():
            at = int(np.average(np.arange(len(steps)), weights=values))  # over the area's centre of mass
            axes.text(
                steps[at], base[at] + values[at] / 2, name, color="white", ha="center", va="center", weight="bold"
            )


def _draw_points(axes: Axes, ks: list[int], record: dict[str, Any], shift: float, **style: Any) -> None:
    values = [record[f"pass@{k}"] for k in ks]
    errors = np.hstack([_errors([record], k) for k in ks])
    axes.errorbar(
        [k * shift for k in ks], values, yerr=errors, capsize=4, linewidth=2, elinewidth=1.2, markersize=7, **style
    )


def _errors(records: list[dict[str, Any]], k: int) -> np.ndarray:
    """[2, records]: distances from pass@k down and up to the ends of its interval."""
    key = f"pass@{k}"
    pairs = [(r[key] - r["ci"][key][0], r["ci"][key][1] - r[key]) for r in records]
    distances: np.ndarray = np.maximum(np.array(pairs, dtype=float).T, 0.0)
    return distances


def _ks(record: dict[str, Any]) -> list[int]:
    return sorted(int(key.removeprefix("pass@")) for key in record["ci"])


def _level(summary: dict[str, Any]) -> str:
    return f"{summary['config']['evaluation']['confidence']:.0%} interval"


def _part_seconds(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Part -> seconds [steps], in the order they are shown. Parts that never took time are left out."""
    found = [row.get("parts") or _of_phases(row["seconds"]) for row in rows]
    names = dict.fromkeys([*ACTIVITY_COLOURS, *(name for parts in found for name in parts)])
    seconds = {name: np.array([parts.get(name, 0.0) for parts in found]) for name in names}
    return {name: values for name, values in seconds.items() if values.sum() > 0}


def _of_phases(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds by phase, and the rest of the total as "other"."""
    phases = {name: value for name, value in seconds.items() if name != "total"}
    return phases | {"other": max(0.0, seconds.get("total", 0.0) - sum(phases.values()))}


def _integer_steps(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
