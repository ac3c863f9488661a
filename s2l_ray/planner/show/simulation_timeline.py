"""A simulated run for people: a picture of what every actor does when, in some steps of each phase."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.kinds import PhaseName
from s2l_ray.placement.plan import PHASES
from s2l_ray.planner.show.look import PART_COLOURS, part_name
from s2l_ray.planner.simulate.simulated_run import SimulatedStep, Simulation
from s2l_ray.style import save_png
from s2l_ray.timing.drawing import Panel, duration, timeline_figure
from s2l_ray.timing.spans import Span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_STEPS = 2
"""Neighbouring steps drawn of each phase, from its middle."""
PARTS = ("explore", "learner_generate", "verify", "update", "weight_sync", "sleep_wake")
COLOURS = {part: PART_COLOURS[part] for part in PARTS} | {"start": "#C9B458"}
NAMES = {part: part_name(part) for part in PARTS} | {"start": "engine starts"}


def draw_timeline(found: Simulation, title: str, path: Path) -> Path:
    """Draw some steps of each phase as a PNG file; returns its path."""
    return save_png(lambda: simulation_figure(found, title), path)


def simulation_figure(found: Simulation, title: str) -> Figure:
    """One row of axes per phase; all have the same scale of time."""
    panels = [_panel(found, name) for name in PHASES if any(s.phase == name for s in found.steps)]
    return timeline_figure(panels, title, COLOURS, NAMES)


def _panel(found: Simulation, name: PhaseName) -> Panel:
    steps = _window(found, name)
    begin, end = steps[0].start, steps[-1].start + steps[-1].seconds["total"]
    during = [
        Span(a.actor, a.kind, a.step, a.start, a.end) for a in found.activities if a.end > begin and a.start < end
    ]
    title = f"{name}: {duration(found.phase_seconds()[name])} a step"
    return Panel(title, {step.step: step.start for step in steps}, end, during)


def _window(found: Simulation, name: PhaseName) -> list[SimulatedStep]:
    steps = [step for step in found.steps if step.phase == name]
    first = max(0, (len(steps) - SHOWN_STEPS) // 2)
    return steps[first : first + SHOWN_STEPS]
