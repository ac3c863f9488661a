"""What a user should be told about a step, beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from s2l_ray.results import StepRecord, hand_overs

SETTLED = 2
"""Steps after a hand-over until step times are compared: the first step's includes effects of the hand-over."""
RECENT = 8
"""Steps that notices look at."""


def notices(records: Sequence[StepRecord], logprob_gap_alarm: float | None) -> list[str]:
    """What to say after the last of these steps.

    That is: the effect of a hand-over, once it can be told; engines whose log-probs disagree with the trainer's; the
    first answers that could not be checked; the first step whose rewards taught nothing; a step whose updates were all
    skipped, since they were not finite.

    Args:
        records: one for each step so far; not empty.
        logprob_gap_alarm: objective.logprob_gap_alarm.
    """
    return [
        *_hand_over(records[-RECENT:]),
        *_disagreement(records[-1], logprob_gap_alarm),
        *_failed_checks(records),
        *_no_variance(records),
        *_changed_no_weights(records[-1]),
    ]


def _hand_over(records: Sequence[StepRecord]) -> list[str]:
    return [
        f"hand-over before step {change['step']}: explorer engines {change['engines_before']['explorer']} -> "
        f"{change['engines_after']['explorer']}, learner engines {change['engines_before']['learner']} -> "
        f"{change['engines_after']['learner']}; step {change['seconds_before']:.2f} s before, "
        f"{change['seconds_after']:.2f} s after"
        for change in hand_overs(records)
        if change["step"] == records[-1].step - SETTLED
    ]


def _disagreement(record: StepRecord, alarm: float | None) -> list[str]:
    if not record.trainer.get("logprob_gap_alarm"):
        return []
    return [
        f"step {record.step}: log-probs of the learner's engines and its trainer differ by "
        f"{record.trainer['logprob_gap/learner']:.3f} per token, more than objective.logprob_gap_alarm ({alarm:g}): "
        "ratios and clipping mean less than they seem to"
    ]


def _changed_no_weights(record: StepRecord) -> list[str]:
    skipped = record.trainer.get("skipped_updates", 0.0)
    if not skipped or "grad_norm" in record.trainer:  # there is a norm if any of the step's updates was finite
        return []
    return [
        f"step {record.step} changed no weights: the loss or its gradient was NaN or infinite in each of its "
        f"{skipped:.0f} optimizer steps, which were skipped. If it goes on, lower trainer.learning_rate; in a function "
        "of your own (objective.loss), look for operations that have no finite gradient, such as the root of 0"
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


def _no_variance(records: Sequence[StepRecord]) -> list[str]:
    last = records[-1]
    if not _taught_nothing(last) or any(map(_taught_nothing, records[:-1])):
        return []
    beside = ", but for objective.kl and objective.entropy" if last.trainer.get("trained_tokens") else ""
    return [
        f"no group of step {last.step} had rewards that differ, so the step trained nothing{beside}: the mean reward "
        f"was {last.reward:g}. This is said once. If it goes on, check that verifier.kind gives right answers their "
        "reward (`s2l verify --kind`), that answers can be read and are not cut off (verdicts and truncated in "
        "steps.jsonl), and that the problems are neither too hard nor too easy for these models"
    ]


def _taught_nothing(record: StepRecord) -> bool:
    """Whether no rollout had an advantage because each group's rewards are equal.

    Equal rewards alone do not say so: penalties, and advantages that are normalised over the batch, come after them.
    """
    flat = 0 < record.groups == record.zero_variance_groups
    return flat and "advantage_mass/explorer" not in record.trainer
