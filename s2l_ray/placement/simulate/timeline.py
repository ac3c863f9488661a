"""A simulated run for people: a picture of what every actor does when, and a table of its phases.

matplotlib is imported inside functions, and without pyplot: no backend is chosen for the caller's process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.evaluation.figures import INK, MUTED, RULE
from s2l_ray.placement.plan import PHASES, PhaseName
from s2l_ray.placement.show.look import PART_COLOURS, part_name, save_png
from s2l_ray.placement.simulate.simulation import SimulatedStep, Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from s2l_ray.placement.simulate.simulated_actors import Activity

SHOWN_STEPS = 2
"""Neighbouring steps drawn of each phase, from its middle."""
SHOWN_ACTORS = 4
"""Drawn of each kind; the rest are counted."""
KINDS = ("trainer", "learner", "explorer", "verifier")
PARTS = ("explore", "learner_generate", "verify", "update", "swap", "sleep_wake", "start")
COLOURS = {**PART_COLOURS, "start": "#C9B458"}
NAMES = {"start": "engine starts"}
LABEL_SHARE = 0.045
"""Of the picture's width that a bar must have to bear its step's number."""


def draw_timeline(found: Simulation, title: str, path: Path) -> Path:
    """Draw some steps of each phase as a PNG file; returns its path."""
    return save_png(lambda: timeline_figure(found, title), path)


def timeline_figure(found: Simulation, title: str) -> Figure:
    """One row of axes per phase; all have the same scale of time."""
    from matplotlib.figure import Figure

    windows = {name: _window(found, name) for name in PHASES if any(s.phase == name for s in found.steps)}
    rows = {name: _rows(found, steps) for name, steps in windows.items()}
    heights = [len(labels) * 0.27 + 0.75 for labels in rows.values()]
    figure = Figure(figsize=(11.5, sum(heights) + 1.0), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, hspace=0.03)
    panels = figure.subplots(len(windows), 1, height_ratios=heights, squeeze=False)[:, 0]
    longest = max(_end(steps) - steps[0].start for steps in windows.values())
    for axes, (name, steps) in zip(panels, windows.items(), strict=True):
        _panel(axes, found, name, steps, rows[name], longest)
    panels[-1].set_xlabel("seconds")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5)
    _legend(figure, {a.kind for steps in windows.values() for a in _during(found, steps)})
    return figure


def _window(found: Simulation, name: PhaseName) -> list[SimulatedStep]:
    steps = [step for step in found.steps if step.phase == name]
    first = max(0, (len(steps) - SHOWN_STEPS) // 2)
    return steps[first : first + SHOWN_STEPS]


def _end(steps: list[SimulatedStep]) -> float:
    return steps[-1].start + steps[-1].seconds["total"]


def _during(found: Simulation, steps: list[SimulatedStep]) -> list[Activity]:
    return [a for a in found.activities if a.end > steps[0].start and a.start < _end(steps)]


def _rows(found: Simulation, steps: list[SimulatedStep]) -> dict[str, str]:
    """Actor -> label, top to bottom. Trainer ranks do the same at the same time: one row for all."""
    actors = sorted({a.actor for a in _during(found, steps)}, key=lambda a: (KINDS.index(a.split()[0]), _number(a)))
    labels: dict[str, str] = {}
    for kind in KINDS:
        own = [actor for actor in actors if actor.startswith(kind)]
        if kind == "trainer" and len(own) > 1:
            labels[own[0]] = f"trainer, {len(own)} ranks"
            continue
        labels |= {actor: actor if len(own) > 1 else kind for actor in own[:SHOWN_ACTORS]}
        if len(own) > SHOWN_ACTORS:
            labels[own[SHOWN_ACTORS - 1]] += f" (of {len(own)})"
    return labels


def _number(actor: str) -> int:
    return int(actor.split()[1])


def _panel(
    axes: Axes, found: Simulation, name: PhaseName, steps: list[SimulatedStep], rows: dict[str, str], longest: float
) -> None:
    origin = steps[0].start
    line = {actor: number for number, actor in enumerate(rows)}
    axes.barh(range(len(rows)), _end(steps) - origin, height=0.62, color="#f1f1f1")
    for activity in _during(found, steps):
        if activity.actor in line:
            _bar(axes, activity, line[activity.actor], origin, _end(steps), longest)
    for step in steps:
        axes.axvline(step.start - origin, color=INK, linewidth=0.9)
        axes.text(step.start - origin, -0.72, f" step {step.step}", fontsize=8.5, color=MUTED, va="center")
    axes.axvline(_end(steps) - origin, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(rows)), rows.values(), fontsize=9)
    axes.set(xlim=(-0.002 * longest, longest * 1.004), ylim=(len(rows) - 0.45, -1.15))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.set_title(f"{name}: {_time(found.phase_seconds()[name])} a step", loc="left", fontsize=11)


def _bar(axes: Axes, activity: Activity, line: int, origin: float, end: float, longest: float) -> None:
    start, stop = max(activity.start, origin) - origin, min(activity.end, end) - origin
    colour = COLOURS[activity.kind]
    axes.barh(line, stop - start, left=start, height=0.62, color=colour, edgecolor="white", linewidth=0.5)
    if stop - start > LABEL_SHARE * longest and activity.kind in ("explore", "learner_generate", "update"):
        axes.text((start + stop) / 2, line, str(activity.step), ha="center", va="center", fontsize=8, color="white")


def _legend(figure: Figure, kinds: set[str]) -> None:
    from matplotlib.patches import Patch

    shown = [kind for kind in PARTS if kind in kinds]
    handles = [Patch(color=COLOURS[kind], label=NAMES.get(kind) or part_name(kind)) for kind in shown]
    handles.append(Patch(color="#f1f1f1", label="idle"))
    figure.legend(
        handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9, handlelength=1.2
    )
    figure.text(0.995, 0.008, "numbers in bars: the step that the work is for", ha="right", fontsize=8.5, color=MUTED)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
