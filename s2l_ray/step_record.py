"""From what happened in a step to its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2l_ray.results import SourceStats, StepRecord
from s2l_ray.rollout import RolloutSummary, Source
from s2l_ray.scheduling import staleness, step_digest
from s2l_ray.timing import Span, StepClock
from s2l_ray.timing.time_sheet import TimeSheet

if TYPE_CHECKING:
    from actors.scheduler import StepBatch
    from actors.swaps import SwapReport


@dataclass(frozen=True)
class StepOutcome:
    """What the actors report of one step."""

    batch: StepBatch
    metrics: dict[str, float]
    """Of the update."""
    trained: list[Span]
    """What the trainer's ranks did."""
    sampled_with: int
    """Weight version that the trainer held before the update."""
    swap: SwapReport
    engines: dict[Source, int]


def step_record(outcome: StepOutcome, times: TimeSheet, clock: StepClock) -> StepRecord:
    """The record of a step that is over but for what follows from its record; its spans go to the time sheet."""
    batch = outcome.batch
    rows = batch.summaries
    rewards: dict[str, set[float]] = {}
    for row in rows:
        rewards.setdefault(row.prompt_id, set()).add(row.reward)
    reward = sum(row.reward for row in rows) / len(rows)
    details = {"rollouts": len(rows), "tokens": sum(row.response_tokens for row in rows), "reward": reward}
    spent = times.end(clock, batch.work, batch.under_way, outcome.trained, outcome.engines, details)
    return StepRecord(
        step=batch.share.step,
        alpha=float(batch.share.alpha),
        explorer_per_group=batch.share.explorer,
        learner_per_group=batch.share.learner,
        reward=reward,
        sources={source: SourceStats.of(r for r in rows if r.source == source) for source in ("explorer", "learner")},
        zero_variance_groups=sum(len(found) == 1 for found in rewards.values()),
        groups=len(batch.prompts),
        prompts=batch.prompts,
        digest=step_digest(rows),
        weight_version=outcome.sampled_with,
        trainer=outcome.metrics,
        seconds=spent.seconds,
        spans=batch.spans,
        engines=outcome.engines,
        refilled_groups=batch.refilled,
        explorer_only=batch.explorer_only,
        parts=spent.parts,
        busy=spent.busy,
        pipeline=_pipeline(outcome),
    )


def _pipeline(outcome: StepOutcome) -> dict[str, float]:
    batch = outcome.batch
    return {
        "ahead_mb": batch.ahead_bytes / 1e6,
        "banked_rollouts": batch.banked,
        "left_out_groups": len(batch.left_out),
        **_versions(batch.share.step, batch.summaries),
        "stale_dropped": batch.stale_dropped,
        "swap_mb": outcome.swap.bytes / 1e6,
    }


def _versions(step: int, rows: list[RolloutSummary]) -> dict[str, float]:
    """How old the learner's rollouts were, by their oldest tokens; nothing if there are none."""
    learners = [row for row in rows if row.source == "learner"]
    if not learners:
        return {}
    ages = [staleness(row, step) for row in learners]
    return {
        "staleness_mean": sum(ages) / len(ages),
        "staleness_max": max(ages),
        "swapped_in_flight": sum(row.newest_version is not None for row in learners),
    }
