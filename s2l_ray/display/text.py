"""Numbers and lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

SPARKS = "▁▂▃▄▅▆▇█"
EARLIEST_ETA_S = 1.0
"""Before that the first parts say nothing of the pace: some are as good as done when the work begins."""


def duration(seconds: float) -> str:
    """Seconds as 8s, 1m32s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def eta_text(seconds: float, done: int, total: int) -> str:
    """Such as "ETA 1m32s" if `done` of `total` took `seconds`; empty while it is too early to say, and at the end."""
    known = seconds >= EARLIEST_ETA_S and 0 < done < total
    return f"ETA {duration(seconds / done * (total - done))}" if known else ""


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One bar per value, on a scale from `low` to `high`; a gap where there is no value."""
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if v is None else SPARKS[round((v - low) * scale)] for v in values)


def shared_out(parts: Mapping[str, float], cells: int) -> dict[str, int]:
    """Divide the cells of a bar in proportion to the parts: rounded down, then one more where most was cut off."""
    exact = {part: cells * value / sum(parts.values()) for part, value in parts.items()}
    shares = {part: int(value) for part, value in exact.items()}
    for part in sorted(exact, key=lambda p: shares[p] - exact[p])[: cells - sum(shares.values())]:
        shares[part] += 1
    return shares


def percent(value: float, bounds: Sequence[float]) -> str:
    """A share in [0, 1] and its interval in percent: 18.5 [15.3, 21.9]."""
    return f"{100 * value:.1f} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def line(text: str) -> Text:
    """Text that is cut off, not wrapped, where the panel is too narrow."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def is_live(console: Console) -> bool:
    """Whether a console can show a panel that changes."""
    return console.is_terminal and not console.is_dumb_terminal


def with_short_paths(text: str) -> str:
    """Text whose paths below the working directory are relative to it: shorter, and easier to copy."""
    return text.replace(f"{Path.cwd()}/", "")


def print_line(console: Console, line: str) -> None:
    """Print text as it is: brackets are no markup. Long lines are wrapped at words on a terminal, and only there."""
    console.print(line, soft_wrap=not is_live(console), markup=False, highlight=False, emoji=False)
