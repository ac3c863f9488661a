"""What a user should be told about a step, beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from s2l_ray.results import StepRecord, hand_overs

SETTLED = 2
"""Steps after a hand-over until step times are compared: the first step's includes effects of the hand-over."""
RECENT = 8
"""Steps that notices look at."""


def notices(records: Sequence[StepRecord]) -> list[str]:
    """What to say after the last of these steps.

    That is: the effect of a hand-over, once it can be told, and the first answers that could not be checked. What is
    wrong with its numbers is said by `run.health`.

    Args:
        records: one for each step so far; not empty.
    """
    return [*_hand_over(records[-RECENT:]), *_failed_checks(records)]


def _hand_over(records: Sequence[StepRecord]) -> list[str]:
    return [
        f"hand-over before step {change['step']}: explorer engines {change['engines_before']['explorer']} -> "
        f"{change['engines_after']['explorer']}, learner engines {change['engines_before']['learner']} -> "
        f"{change['engines_after']['learner']}; step {change['seconds_before']:.2f} s before, "
        f"{change['seconds_after']:.2f} s after"
        for change in hand_overs(records)
        if change["step"] == records[-1].step - SETTLED
    ]


def _failed_checks(records: Sequence[StepRecord]) -> list[str]:
    last = records[-1]
    if not _failed(last) or any(map(_failed, records[:-1])):
        return []
    return [
        f"step {last.step}: {_failed(last)} of {sum(stats.rollouts for stats in last.sources.values())} answers could "
        "not be checked and got no reward: the verifier raised, or ended its process. This is said once: see the "
        "verdict `failed` in steps.jsonl, and its reasons in rollouts/, for the groups that are kept there"
    ]


def _failed(record: StepRecord) -> int:
    return sum(stats.verdicts.get("failed", 0) for stats in record.sources.values())
