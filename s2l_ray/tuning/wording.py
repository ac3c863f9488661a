"""Values, measurements and events of trials as short texts, for tables and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s2l_ray.display.text import percent
from s2l_ray.kinds import TrialEvent, TrialStatus
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import TrialOutcome

STATUS_STYLES: dict[TrialStatus, str] = {
    "waiting": "dim",
    "starting": "",
    "running": "bold",
    "paused": "",
    "finished": "green",
    "pruned": "yellow",
    "failed": "red",
    "stopped": "dim",
}
"""Status -> its style on the terminal."""


def short_name(about: StudyAbout, name: str) -> str:
    """What a trial is called below the name of its study: its label if it has one, else its number, such as 00003."""
    return about.labels.get(name) or name.removeprefix(f"{about.name}_") or name


def metric_label(about: StudyAbout) -> str:
    """The metric as a column is headed: "pass@1 %" for eval/learner/pass_at_1, else the last part of its name."""
    last = about.metric.rpartition("/")[2]
    return f"pass@{last.removeprefix('pass_at_')} %" if about.is_pass_at_k else last


def value_text(value: Any) -> str:
    """A value of a key: numbers with as many digits as are useful."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        text = f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
        digits, e, exponent = text.partition("e")
        return f"{float(digits):g}e{int(exponent):+d}" if e else text
    if isinstance(value, Mapping):
        return " ".join(f"{key}={value_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(value_text, value))
    return str(value)


def metric_text(about: StudyAbout, value: float | None, interval: Sequence[float] | None = None) -> str:
    """A value of the metric: in percent where it is pass@k, with its interval if that is given."""
    if value is None:
        return ""
    if not about.is_pass_at_k:
        return f"{value:.4g}"
    return percent(value, interval) if interval else f"{100 * value:.1f}"


def before_text(about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> str | None:
    """The metric before training as a line; None if no trial has measured it.

    Trials with one learner, one set of problems and one seed have the same value; of others, the range is given.
    """
    measured = [(outcome.before, outcome.interval_before) for outcome in outcomes if outcome.before is not None]
    if not measured:
        return None
    low, high = min(value for value, _ in measured), max(value for value, _ in measured)
    same = low == high
    said = metric_text(about, low, measured[0][1]) if same else " to ".join(metric_text(about, v) for v in (low, high))
    return f"before training {metric_label(about)} {said}"


def values_text(values: Mapping[str, Any]) -> str:
    """Values by key, in a line."""
    return " ".join(f"{key}={value_text(value)}" for key, value in values.items())


def event_text(about: StudyAbout, event: TrialEvent, outcome: TrialOutcome) -> str:
    """An event as a line, without the trial's name; "restored" has none."""
    at = f"step {outcome.step}/{outcome.steps}"
    measured = (
        f"{metric_label(about)} {metric_text(about, outcome.metric, outcome.interval)} (step {outcome.metric_step})"
        if outcome.metric is not None
        else ""
    )
    if event in ("starting", "started"):
        values = "" if about.labels else f": {values_text(outcome.values)}"
        begins = f"starting{values}" if event == "starting" else "started"
        return begins if not outcome.step else f"{'starting again' if event == 'starting' else 'goes on'} after {at}"
    if event == "paused":
        return f"paused after {at}"
    if event == "exploited":
        exploit = outcome.exploits[-1]
        changes = ", ".join(f"{k} {value_text(a)} -> {value_text(b)}" for k, (a, b) in exploit.changed.items())
        return f"takes over {exploit.donor} after step {exploit.step}: {changes or 'no value changed'}"
    if event == "failed":
        return f"failed after {at}, is tried again (failure {outcome.failures}): {outcome.error}"
    if event == "ended" and outcome.status == "failed":
        return f"failed after {at}: {outcome.error}"
    said = {"finished": "finished", "pruned": f"pruned after {at}", "stopped": f"stopped after {at}"}
    return "  ".join(filter(None, [said[outcome.status] if event == "ended" else at, measured]))
