"""Timelines: who did what when, with a row per actor, of real and of simulated runs.

matplotlib is imported inside functions, and without pyplot: no backend is chosen for the caller's process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2l_ray.style import ACTIVITY_COLOURS, IDLE, INK, MUTED, RULE
from s2l_ray.timing.names import activity_name
from s2l_ray.timing.spans import Span, number_of, role_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from s2l_ray.results import StepRecord

SHOWN_ACTORS = 4
"""How many actors of each role are drawn; the rest are counted."""
SHOWN_STEPS = 3
"""How many neighbouring steps are drawn of each kind."""
ROLES = ("driver", "trainer", "learner", "explorer", "bank", "verifier")
NUMBERED = ("explore", "generate", "learner_generate", "update", "forward_backward")
"""Activities whose bars bear the number of the step that the work is for, if they are wide enough."""
LABEL_SHARE = 0.025
"""Smallest width of a bar that bears a number, as a share of the width of the axes."""
HEIGHT = 0.62
"""Height of a bar, where rows are 1 apart."""
LOUD = ("evaluate", "checkpoint", "hand_over")
"""Phases that steps to draw should not have."""


@dataclass(frozen=True)
class Panel:
    """A few neighbouring steps."""

    title: str
    starts: Mapping[int, float]
    """Step -> when it began, in seconds since the epoch."""
    end: float
    spans: Sequence[Span]
    """What was done in that time, also if only in part."""

    @property
    def begin(self) -> float:
        """When the first step began, in seconds since the epoch."""
        return min(self.starts.values())

    @property
    def seconds(self) -> float:
        """How long the steps took together."""
        return self.end - self.begin


def run_panels(spans: Sequence[Span], windows: Mapping[str, Sequence[int]]) -> list[Panel]:
    """A panel for each window of a run.

    Args:
        spans: of the run.
        windows: title -> steps. Steps without spans are left out, as are windows without steps.
    """
    wholes = {span.step: span for span in spans if span.name == "step"}
    panels = []
    for title, steps in windows.items():
        shown = [wholes[step] for step in steps if step in wholes]
        if shown:
            begin, end = min(s.start for s in shown), max(s.end for s in shown)
            during = [s for s in spans if s.name != "step" and s.end > begin and s.start < end]
            mean = sum(s.end - s.start for s in shown) / len(shown)
            starts = {s.step: s.start for s in shown}
            panels.append(Panel(f"{title}: {duration(mean)} a step", starts, end, during))
    return panels


def kinds_of_steps(records: Sequence[StepRecord]) -> dict[str, list[StepRecord]]:
    """The steps by which model samples most; kinds that the run has no steps of are left out."""
    kinds = {
        "mostly explorer": [r for r in records if r.explorer_per_group >= r.learner_per_group],
        "mostly learner": [r for r in records if 0 < r.explorer_per_group < r.learner_per_group],
        "learner alone": [r for r in records if not r.explorer_per_group],
    }
    return {kind: own for kind, own in kinds.items() if own}


def typical_windows(records: Sequence[StepRecord]) -> dict[str, list[int]]:
    """Steps to draw: a few of each kind."""
    return {kind: _quiet(own) for kind, own in kinds_of_steps(records).items()}


def timeline_figure(
    panels: Sequence[Panel],
    title: str,
    colours: Mapping[str, str] = ACTIVITY_COLOURS,
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the panels below each other, on one scale of time.

    Args:
        panels: at least one.
        title: of the figure.
        colours: activity -> colour, in the order of the legend.
        names: activity -> what the legend calls it; default: `names.activity_name`.
    """
    from matplotlib.figure import Figure

    rows = [_rows(panel) for panel in panels]
    heights = [len(labels) * 0.27 + 0.75 for labels in rows]
    figure = Figure(figsize=(11.5, sum(heights) + 1.25))
    figure.set_layout_engine("constrained", h_pad=0.06, hspace=0.03)
    all_axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    longest = max(panel.seconds for panel in panels)
    for axes, panel, labels in zip(all_axes, panels, rows, strict=True):
        _draw(axes, panel, labels, longest, colours)
    all_axes[-1].set_xlabel("seconds")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5)
    shown = {s.name for panel, labels in zip(panels, rows, strict=True) for s in panel.spans if s.track in labels}
    _legend(figure, [name for name in colours if name in shown], colours, names or {})
    return figure


def duration(seconds: float) -> str:
    """Seconds as 12.3 s, 1.93 s or 410 ms."""
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _quiet(records: Sequence[StepRecord]) -> list[int]:
    """Neighbouring steps that did the least beside training; of several, those nearest to the middle."""
    loud = [any(phase in record.seconds for phase in LOUD) for record in records]
    width = min(SHOWN_STEPS, len(records))
    middle = (len(records) - width) / 2
    first = min(range(len(records) - width + 1), key=lambda i: (sum(loud[i : i + width]), abs(i - middle)))
    return [record.step for record in records[first : first + width]]


def _rows(panel: Panel) -> dict[str, str]:
    """Actor -> label, top to bottom. All trainer ranks share a row: they do the same at the same time."""
    actors = sorted({s.track for s in panel.spans}, key=lambda track: (ROLES.index(role_of(track)), number_of(track)))
    labels: dict[str, str] = {}
    for role in ROLES:
        own = [actor for actor in actors if role_of(actor) == role]
        if role == "trainer" and len(own) > 1:
            labels[own[0]] = f"trainer, {len(own)} ranks"
            continue
        labels |= {actor: actor if len(own) > 1 else role for actor in own[:SHOWN_ACTORS]}
        if len(own) > SHOWN_ACTORS:
            labels[own[SHOWN_ACTORS - 1]] += f" (of {len(own)})"
    return labels


def _draw(axes: Axes, panel: Panel, labels: dict[str, str], longest: float, colours: Mapping[str, str]) -> None:
    axes.barh(range(len(labels)), panel.seconds, height=HEIGHT, color=IDLE)
    for line, track in enumerate(labels):
        _draw_row(axes, panel, track, line, longest, colours)
    for step, start in panel.starts.items():
        axes.axvline(start - panel.begin, color=INK, linewidth=0.9, zorder=4)
        axes.text(start - panel.begin, -0.72, f" step {step}", fontsize=8.5, color=MUTED, va="center")
    axes.axvline(panel.seconds, color=INK, linewidth=0.9, zorder=4)
    axes.set_yticks(range(len(labels)), labels.values(), fontsize=9)
    axes.set(xlim=(-0.002 * longest, longest * 1.004), ylim=(len(labels) - 0.45, -1.15))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.set_title(panel.title, loc="left", fontsize=11)


def _draw_row(axes: Axes, panel: Panel, track: str, line: int, longest: float, colours: Mapping[str, str]) -> None:
    """Draw what an actor did. Work for an earlier step, which is waited for, covers work ahead for a later one."""
    own = sorted((s for s in panel.spans if s.track == track and s.name in colours), key=lambda s: (-s.step, s.start))
    wide = LABEL_SHARE * longest
    for layer, span in enumerate(own):
        start, end = max(span.start, panel.begin) - panel.begin, min(span.end, panel.end) - panel.begin
        edge = {"edgecolor": "white", "linewidth": 0.5} if end - start > wide / 5 else {"linewidth": 0}
        zorder = 2 + layer / (len(own) + 1)
        axes.barh(line, end - start, left=start, height=HEIGHT, color=colours[span.name], zorder=zorder, **edge)
        if end - start > wide and span.name in NUMBERED and span.step:
            axes.text(
                (start + end) / 2, line, str(span.step), ha="center", va="center", fontsize=8, color="white",
                zorder=zorder,
            )  # fmt: skip


def _legend(figure: Figure, shown: list[str], colours: Mapping[str, str], names: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colours[name], label=names.get(name) or activity_name(name)) for name in shown]
    handles.append(Patch(color=IDLE, label="idle"))
    figure.legend(
        handles=handles, loc="outside lower left", ncols=min(len(handles), 7), frameon=False, fontsize=9,
        handlelength=1.2,
    )  # fmt: skip
    figure.text(0.995, 0.008, "numbers in bars: the step that the work is for", ha="right", fontsize=8.5, color=MUTED)
