"""Figures as SVG that is part of a page: its text in the page's font, its colours those of the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from s2l_ray.style import ACTIVITY_COLOURS, INK, MUTED, RULE, SERIES_COLOURS, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    ACTIVITY_COLOURS["other"]: "var(--rest)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES_COLOURS)},
}
"""Colour of a figure -> what it is on the page (`page.html.j2`); other colours stay."""
REPLACED = (
    (r"<metadata>.*?</metadata>", ""),
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # it would hold for the whole page
    (r'<g id="[^"]*">', "<g>"),  # the same in every figure
    (r"font-family: [^;\"]*; ?", ""),
    (r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1"),
)


def as_svg(make: Callable[[], Figure | None], name: str) -> str | None:
    """Draw a figure, without a background; None where there is nothing to draw.

    Args:
        make: draws it; called with the style in effect.
        name: tells the identifiers in it from those of other figures of the page.
    """
    from matplotlib import rc_context

    with rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": name}):
        figure, buffer = make(), io.StringIO()
        if figure is None:
            return None
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for pattern, replacement in REPLACED:
        drawn = re.sub(pattern, replacement, drawn, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        drawn = re.sub(re.escape(colour), variable, drawn, flags=re.IGNORECASE)
    viewed = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', drawn)
    assert viewed is not None
    points = float(viewed[1])
    opening = f'<svg viewBox="0 0 {viewed[1]} {viewed[2]}" role="img" style="max-width: {points * 4 / 3:.0f}px">'
    return re.sub(r"<svg[^>]*>", opening, drawn, count=1)
