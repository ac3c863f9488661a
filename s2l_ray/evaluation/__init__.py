"""What a run achieved: pass@k with intervals, the summary of a run, and its figures."""

from __future__ import annotations

COLOURS = {"explorer": "#D55E00", "learner": "#0072B2"}
"""One colour per source, the same in figures and on the terminal; told apart with any colour vision (Okabe-Ito)."""
