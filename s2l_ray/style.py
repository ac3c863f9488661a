"""How figures and the terminal look: colours of the sources, fonts and lines; and how a figure is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.machine.disk import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"explorer": "#D55E00", "learner": "#0072B2"}
"""One colour per source, the same in figures and on the terminal; told apart with any colour vision (Okabe-Ito)."""
INK, MUTED, RULE = "#222222", "#6b6b6b", "#dddddd"
STYLE = {
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


def save_png(make: Callable[[], Figure], path: Path) -> Path:
    """Write the figure that `make` returns, in the house's style; returns the file's path."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = make()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=110, facecolor="white")
    return path
