"""Metrics, axes and numbers of an experiment as short texts, for table and figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from s2l_ray.experiments.comparison import Comparison, Interval
from s2l_ray.experiments.experiment_file import Axis
from s2l_ray.tuning.measured import EVALUATION

NAMED = 3
"""Labels that a sentence names."""
PASS_AT = f"{EVALUATION}pass_at_"
AXIS_LABELS: dict[Axis, str] = {
    "steps": "steps",
    "prompts": "prompts trained on",
    "tokens": "sampled response tokens",
    "flops": "FLOPs of rollouts and updates",
    "seconds": "seconds of training",
}


def is_percent(metric: str) -> bool:
    """Whether a metric is shown in percent: pass@k."""
    return metric.startswith(PASS_AT)


def label_of(metric: str) -> str:
    """What a metric is called: "pass@1 %" for eval/learner/pass_at_1."""
    return f"pass@{metric.removeprefix(PASS_AT)} %" if is_percent(metric) else metric.removeprefix(EVALUATION)


def shown(metric: str, value: float) -> float:
    """A value of a metric as it is shown."""
    return 100 * value if is_percent(metric) else value


def value_with_interval(metric: str, value: float | None, interval: Interval | None, sign: str = "") -> str:
    """Such as 23.1 [20.4, 25.8], or with sign="+" +2.2 [+0.4, +4.0]."""
    if value is None:
        return ""
    digits = f"{sign}.1f" if is_percent(metric) else f"{sign}.3f"
    texts = [format(shown(metric, number), digits) for number in (value, *(interval or ()))]
    return texts[0] if interval is None else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def p_text(p: float | None) -> str:
    """A p-value."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def large(value: float) -> str:
    """A number in three digits: 1.23e12, 45.6M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if size <= value < 1000 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}" if value < 1e3 else f"{value:.2e}".replace("e+", "e")


def place_text(comparison: Comparison) -> str:
    """Where the arms are compared."""
    at = comparison.file.at
    if at is None or comparison.place is None:
        return "at the end of each run"
    if not math.isfinite(comparison.place):
        return f"nowhere: it is not known of every run how many {AXIS_LABELS[at.axis]} it had spent"
    how = ", the most that every run got to" if at.value == "common" else ""
    return f"at {large(comparison.place)} {AXIS_LABELS[at.axis]}{how}"


def listed(labels: Sequence[str]) -> str:
    """The first of several labels, and how many more there are."""
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(labels[:NAMED]) + more
