"""Every second of a step attributed to exactly one cause.

The phases of the driver say what the step was doing. Two of them are split by what others did meanwhile: the time in
which the driver collects rollouts, by what was still missing; the time of the update, by what trainer rank 0 was doing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from s2l_ray.rollouts.records import Period
from s2l_ray.timing.spans import Span, busy, role_of

ROLLOUT_PARTS = ("explore", "generate", "explore_and_generate", "bank", "verify", "assemble")
UPDATE_PARTS = (
    "fetch",
    "wait_for_ranks",
    "prepare",
    "old_logprobs",
    "reference",
    "forward_backward",
    "optimizer",
    "update_rest",
)
PARTS = {
    "explore": "waiting for the explorer's rollouts alone",
    "generate": "waiting for the learner's rollouts alone",
    "explore_and_generate": "waiting for rollouts of both",
    "bank": "waiting for recorded rollouts alone",
    "verify": "all is sampled, verdicts are missing",
    "assemble": "all is verified: groups checked, balanced over the trainer's ranks, and on their way",
    "fetch": "trainer: groups from the object store",
    "wait_for_ranks": "trainer: rank 0 is ready, others are not",
    "prepare": "trainer: advantages, packing",
    "old_logprobs": "trainer: log-probs under the weights before the update",
    "reference": "trainer: log-probs under the reference",
    "forward_backward": "trainer: forward and backward",
    "optimizer": "trainer: gradient norm, clipping, optimizer step",
    "update_rest": "trainer: calls, metrics, engines falling asleep",
    "weight_sync": "weights to the learner's engines",
    "hand_over": "engines leaving and joining",
    "evaluate": "held-out evaluation",
    "checkpoint": "writing a checkpoint",
    "other": "the driver's own work: records, MLflow, figures",
}
"""The parts of a step, in the order they are shown -> what they mean."""
ORDER = list(PARTS)
_UNDER_WAY = {"explore": "explore", "generate": "generate", "read": "bank", "verify": "verify"}
"""Name of a span -> the part of a step that the driver's wait for it counts as."""


def attribute(whole: Span, phases: Sequence[Span], work: Iterable[Span]) -> dict[str, float]:
    """The seconds of each part of a step, parts without any left out. They add up to the step's wall-clock time.

    The rollouts of a source are missing until the last span of sampling them ends, also while the engine in question
    still works on another step.

    Args:
        whole: the step, from its start to its end.
        phases: of the driver; where two overlap, the one that began later counts.
        work: spans of engines, verifiers, bank and trainer. Those for other steps are ignored.
    """
    own = [span for span in work if span.step == whole.step]
    ends = _last_ends(own)
    trainer = [span for span in own if span.track == "trainer 0"]
    parts: dict[str, list[float]] = defaultdict(list)
    for start, end in _pieces(whole, [*phases, *trainer], ends.values()):
        phase = _at(phases, start)
        if phase == "rollout":
            part = _missing({name for name, last in ends.items() if last > start})
        elif phase == "update":
            part = _at(trainer, start) or "update_rest"
        else:
            part = phase or "other"
        parts[part].append(end - start)
    return {part: sum(parts[part]) for part in sorted(parts, key=_order)}


def busy_shares(window: Period, spans: Iterable[Span], engines: Mapping[str, int]) -> dict[str, float]:
    """By role, the share of a window in which its actors worked, for any step: the mean over the role's actors.

    Args:
        window: from and to, in seconds since the epoch.
        spans: of work, also outside the window.
        engines: number of actors by role; a role without a number has the actors that have spans.
    """
    periods: dict[str, dict[str, list[Period]]] = {role: {} for role, count in engines.items() if count}
    for span in spans:
        start, end = max(span.start, window.start), min(span.end, window.end)
        if role_of(span.track) != "driver" and end > start:
            periods.setdefault(role_of(span.track), {}).setdefault(span.track, []).append(Period(start, end))
    length = window.end - window.start
    if length <= 0:
        return {}
    return {
        role: sum(p.end - p.start for own in tracks.values() for p in busy(own, len(own))) / length
        / max(engines.get(role, 0), len(tracks))
        for role, tracks in periods.items()
    }  # fmt: skip


def _last_ends(own: list[Span]) -> dict[str, float]:
    """Part that the driver waits for -> when the last of it was there."""
    ends: dict[str, float] = {}
    for span in own:
        if (part := _UNDER_WAY.get(span.name)) is not None:
            ends[part] = max(span.end, ends.get(part, span.end))
    return ends


def _missing(under_way: set[str]) -> str:
    if {"explore", "generate"} <= under_way:
        return "explore_and_generate"
    return next((part for part in ("explore", "generate", "bank", "verify") if part in under_way), "assemble")


def _pieces(whole: Span, spans: Iterable[Span], moments: Iterable[float]) -> list[tuple[float, float]]:
    """The step, cut wherever something begins or ends: (start, end) of each piece, in order."""
    cuts = {whole.start, whole.end, *moments, *(t for span in spans for t in (span.start, span.end))}
    inside = sorted(t for t in cuts if whole.start <= t <= whole.end)
    return list(pairwise(inside))


def _at(spans: Sequence[Span], moment: float) -> str | None:
    """Name of the span that goes on from `moment`; of several, the one that began last; None: nothing goes on."""
    going_on = [span for span in spans if span.start <= moment < span.end]
    return max(going_on, key=lambda span: span.start).name if going_on else None


def _order(part: str) -> tuple[int, str]:
    return (ORDER.index(part) if part in ORDER else len(ORDER), part)
