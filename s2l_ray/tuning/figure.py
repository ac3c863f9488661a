"""The figure of a study: the metric over T_mix, and over steps.

matplotlib is imported inside functions, and without pyplot: no backend is chosen for the caller's process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.style import INK, MUTED, save_png
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.axes import Axis, colour_of, colours, horizontal
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.ranking import SEED, SeedMean, best_of, over_seeds
from s2l_ray.tuning.wording import metric_label, short_name, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 12
"""Up to so many trials are named at the end of their lines; of more, the best."""
SUBTITLE: dict[str, Any] = {"fontsize": 11, "fontweight": "normal"}
BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
"""Of a text that may be over other things."""
LINES: tuple[Any, Any] = ("--", "-")
"""Of trials that did not get to their end, and that did."""
MEAN: dict[str, Any] = {"linestyle": "", "marker": "_", "markersize": 60, "markeredgewidth": 3, "alpha": 0.5}
"""Of trials that differ in the seed alone."""
NAME_HEIGHT = 0.04
"""Height of a name, as a share of the axis."""
SPREAD = 0.02
"""Trials that have the same value are drawn side by side: by so much of the axis's width at most."""


def draw_study(about: StudyAbout, outcomes: Sequence[TrialOutcome], path: Path) -> Path | None:
    """Draw the figure of a study as a PNG file.

    Returns:
        Its path; None if the metric was never measured.

    Raises:
        DiskError: it cannot be written.
    """
    measured = [outcome for outcome in outcomes if outcome.metric is not None]
    return save_png(lambda: study_figure(about, measured), path) if measured else None


def study_figure(about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> Figure:
    """Left the metric over a key, right over steps; trials that were pruned or did not get to their end are hollow.

    Args:
        about: the study.
        outcomes: its trials with a measurement, at least one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[5, 6])
    axis = horizontal(about.keys, outcomes)
    shown_by, by_value = colours(about.keys, outcomes, axis)
    drawn = {outcome.name: colour_of(outcome, shown_by, by_value) for outcome in outcomes}
    _draw_values(left, about, outcomes, axis, drawn)
    _draw_steps(right, about, outcomes, drawn)
    figure.suptitle(f"{about.name}: {len(outcomes)} trials", x=0.01, ha="left", fontsize=13, fontweight="bold")
    _legend(figure, about, outcomes, shown_by, by_value)
    return figure


def _draw_values(
    axes: Axes, about: StudyAbout, outcomes: Sequence[TrialOutcome], axis: Axis | None, drawn: dict[str, str]
) -> None:
    places = _side_by_side(axis, outcomes)
    for outcome in outcomes:
        value, colour = _shown(about, outcome.metric), drawn[outcome.name]
        errors = None
        if outcome.interval:
            low, high = (_shown(about, bound) for bound in outcome.interval)
            errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar(
            [places[outcome.name]], [value], yerr=errors, linestyle="", elinewidth=1, capsize=2,
            alpha=1.0 if len(outcomes) <= FEW else 0.75, **_mark(outcome, colour),
        )  # fmt: skip
    if axis is not None and axis.key != SEED:
        for mean in _whole_means(about, outcomes):
            place, colour = axis.place(mean.values[axis.key]), drawn[mean.trials[0].name]
            axes.plot([place], [_shown(about, mean.mean)], zorder=1, color=colour, **MEAN)
    best = best_of(about, outcomes)
    if best is not None:
        axes.annotate(
            f"best: {short_name(about, best.name)}", (places[best.name], _shown(about, best.metric)),
            xytext=(7, 7), textcoords="offset points", fontsize=9, color=INK, zorder=6, bbox=BEHIND,
        )  # fmt: skip
    if axis is not None:
        _label(axes, axis, outcomes)
    level = f" ({about.confidence:.0%} interval over problems)" if any(o.interval for o in outcomes) else ""
    axes.set_ylabel(metric_label(about))
    axes.set_title(f"last value{level}", **SUBTITLE)
    axes.grid(axis="y")


def _draw_steps(axes: Axes, about: StudyAbout, outcomes: Sequence[TrialOutcome], drawn: dict[str, str]) -> None:
    best = best_of(about, outcomes)
    for outcome in outcomes:
        steps = [step for step, _ in outcome.history]
        values = [_shown(about, value) for _, value in outcome.history]
        is_best, colour = outcome is best, drawn[outcome.name]
        axes.plot(
            steps, values, color=colour, linestyle=LINES[outcome.status == "finished"],
            linewidth=2.6 if is_best else 1.4, alpha=1.0 if is_best or len(outcomes) <= FEW else 0.55,
            zorder=4 if is_best else 2,
        )  # fmt: skip
        axes.plot(steps[-1:], values[-1:], linestyle="", zorder=5, **_mark(outcome, colour))
        for exploit in outcome.exploits:
            axes.plot(
                [exploit.step], [_near(outcome, exploit.step, about)], linestyle="", marker="^", markersize=9,
                color=colour, markeredgecolor=INK, zorder=6,
            )  # fmt: skip
    _name_lines(axes, about, outcomes if len(outcomes) <= FEW else [best] if best else [])
    axes.set_xlabel("step")
    axes.set_title("as the trials ran", **SUBTITLE)
    axes.grid(axis="y")
    axes.margins(x=0.08)


def _name_lines(axes: Axes, about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> None:
    """The names of trials beside the ends of their lines, moved apart where these are close.

    Where others go on, they are lower: a line that goes on from there is seldom worse.
    """
    low, high = axes.get_ylim()
    ends: dict[int, list[TrialOutcome]] = defaultdict(list)
    for outcome in sorted(outcomes, key=lambda outcome: outcome.history[-1][1]):
        ends[outcome.history[-1][0]].append(outcome)
    for step, there in ends.items():
        aside = (8, 0 if step == max(ends) else -9)
        heights = _apart([_shown(about, o.history[-1][1]) for o in there], NAME_HEIGHT * (high - low))
        for outcome, height in zip(there, heights, strict=True):
            axes.annotate(
                short_name(about, outcome.name), (step, height), xytext=aside, textcoords="offset points",
                va="center", fontsize=9, color=INK, zorder=6, bbox=BEHIND,
            )  # fmt: skip


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Ascending heights moved so that neighbours are at least so far apart, about their middle."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + least) if moved else height)
    shift = (sum(moved) - sum(heights)) / len(moved)
    return [height - shift for height in moved]


def _mark(outcome: TrialOutcome, colour: str) -> dict[str, Any]:
    """Filled: it got to its end; hollow: pruned; a cross: it failed or was stopped, or it still runs."""
    if outcome.status == "finished":
        return {"marker": "o", "markersize": 7, "color": colour, "markeredgecolor": INK, "markeredgewidth": 0.6}
    marker = "o" if outcome.status == "pruned" else "x"
    return {"marker": marker, "markersize": 7, "color": colour, "markerfacecolor": "white", "markeredgewidth": 1.6}


def _side_by_side(axis: Axis | None, outcomes: Sequence[TrialOutcome]) -> dict[str, float]:
    """Where each trial is on the horizontal axis: those of the same value a little apart."""
    if axis is None:
        return {outcome.name: float(number) for number, outcome in enumerate(outcomes)}
    same: dict[float, list[str]] = defaultdict(list)
    for outcome in outcomes:
        same[axis.place(outcome.values[axis.key])].append(outcome.name)
    low, high = min(same), max(same)
    most = max(map(len, same.values()))
    places = {}
    for place, names in same.items():
        for number, name in enumerate(names):
            aside = (number - (len(names) - 1) / 2) * min(SPREAD, 0.2 / most)
            places[name] = place * (high / low) ** aside if axis.is_log else place + aside * ((high - low) or 1.0)
    return places


def _label(axes: Axes, axis: Axis, outcomes: Sequence[TrialOutcome]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel("T_mix (schedule.mix_steps)" if axis.key == "schedule.mix_steps" else axis.key)
    axes.margins(x=0.1)
    if axis.categories:
        axes.set_xticks(range(len(axis.categories)), labels=list(axis.categories))
        return
    values = sorted({float(outcome.values[axis.key]) for outcome in outcomes})
    if axis.is_log:
        axes.set_xscale("log")
    if len(values) <= 6 and all(len(value_text(value)) <= 4 for value in values):
        axes.set_xticks(values, labels=[value_text(value) for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
    elif axis.is_log:
        axes.xaxis.set_major_locator(LogLocator(subs=range(1, 10) if values[-1] < 5 * values[0] else (1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: value_text(float(value))))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))


def _legend(
    figure: Figure,
    about: StudyAbout,
    outcomes: Sequence[TrialOutcome],
    shown_by: str | None,
    by_value: dict[str, str],
) -> None:
    """What colours and marks mean, below both panels; only what is drawn."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=2.5, label=value) for value, colour in by_value.items()]
    if shown_by is not None:
        handles.insert(0, Line2D([], [], linestyle="", label=f"{shown_by}:"))
    statuses = {outcome.status for outcome in outcomes}
    for status, label in (("finished", "finished"), ("pruned", "pruned"), ("failed", "did not get to its end")):
        there = statuses - {"finished", "pruned"} if status == "failed" else statuses & {status}
        if there:
            like = next(outcome for outcome in outcomes if outcome.status in there)
            handles.append(Line2D([], [], linestyle=LINES[status == "finished"], label=label, **_mark(like, MUTED)))
    if _whole_means(about, outcomes):
        handles.append(Line2D([], [], color=MUTED, label="mean over seeds", **(MEAN | {"markersize": 18})))
    if any(outcome.exploits for outcome in outcomes):
        handles.append(
            Line2D([], [], linestyle="", marker="^", markersize=9, color=MUTED, markeredgecolor=INK, label="exploit")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 9), columnspacing=1.6)


def _whole_means(about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> list[SeedMean]:
    """The means over seeds of which none was pruned: the others are too good to stand beside them."""
    return [mean for mean in over_seeds(about, outcomes) if not mean.pruned]


def _near(outcome: TrialOutcome, step: int, about: StudyAbout) -> float:
    """The value that was measured at a step, or last before it."""
    before = [value for at, value in outcome.history if at <= step] or [outcome.history[0][1]]
    return _shown(about, before[-1])


def _shown(about: StudyAbout, value: float | None) -> float:
    """A value as the axis has it: pass@k in percent."""
    assert value is not None
    return 100 * value if about.is_pass_at_k else value
