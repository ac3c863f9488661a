"""How figures and the terminal look: every colour, fonts and lines; and how a figure is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.kinds import Source
from s2l_ray.machine.disk import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE_COLOURS: dict[Source, str] = {"explorer": "#D55E00", "learner": "#0072B2"}
"""One colour per source, the same in figures and on the terminal; told apart with any colour vision (Okabe-Ito)."""
ACTIVITY_COLOURS = {
    "explore": SOURCE_COLOURS["explorer"],
    "generate": SOURCE_COLOURS["learner"],
    "explore_and_generate": "#6F4E7C",
    "bank": "#8C6D31",
    "read": "#8C6D31",
    "verify": "#E69F00",
    "assemble": "#BFBFBF",
    "rollout": "#D9D9D9",
    "fetch": "#56B4E9",
    "wait_for_ranks": "#B8B8B8",
    "prepare": "#A6D96A",
    "old_logprobs": "#66C2A4",
    "reference": "#B2E2D2",
    "forward_backward": "#009E73",
    "optimizer": "#00523B",
    "update": "#009E73",
    "update_rest": "#D5EBD0",
    "weight_sync": "#CC79A7",
    "hand_over": "#C9B458",
    "evaluate": "#999999",
    "checkpoint": "#7F3C8D",
    "other": "#E3E3E3",
}
"""Activity of an actor (name of a span) or part of a step -> colour, in the order they are shown."""
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6F4E7C", "#8C6D31")
"""Of what has no colour of its own, in this order; the first six are told apart with any colour vision (Okabe-Ito)."""
INK, MUTED, RULE, IDLE = "#222222", "#6b6b6b", "#dddddd", "#f1f1f1"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "text.parse_math": False,  # a run may be named "$x"
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": RULE,
    "legend.frameon": False,
}
"""matplotlib's rcParams; its stubs have a type for every key of the hundreds there are."""


def save_png(make: Callable[[], Figure], path: Path) -> Path:
    """Write a figure in our style.

    Args:
        make: draws it; called with the style in effect.
        path: of the PNG file; directories are made.

    Returns:
        The path.

    Raises:
        DiskError: it cannot be written.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = make()
        with replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=110, facecolor="white")
    return path
