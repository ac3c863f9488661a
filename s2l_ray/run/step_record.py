"""From what happened in a step to its record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from s2l_ray.compute import ComputeMeter
from s2l_ray.kinds import Source
from s2l_ray.results import PipelineStats, SourceStats, StepRecord
from s2l_ray.rollouts.step_planner import staleness, step_digest
from s2l_ray.timing import Span, StepClock
from s2l_ray.timing.time_sheet import TimeSheet

if TYPE_CHECKING:
    from actors.batch import StepBatch
    from actors.weight_sync import WeightSyncReport


@dataclass(frozen=True)
class StepOutcome:
    """What the actors report of one step."""

    batch: StepBatch
    metrics: dict[str, float]
    """Metrics of the update, by name."""
    trained: list[Span]
    """When the trainer's ranks did what."""
    sampled_with: int
    """Weight version that the trainer held before the update."""
    engines: dict[Source, int]
    """How many engines sampled for each source."""
    restarts: int = 0
    """Actors that were started again since the step before."""


def step_numbers(outcome: StepOutcome, meter: ComputeMeter) -> StepRecord:
    """The record of a step without its times and its weight sync: what can be computed while the sync goes on."""
    batch, metrics = outcome.batch, outcome.metrics
    rows = batch.summaries
    rewards: dict[str, set[float]] = {}
    for row in rows:
        rewards.setdefault(row.prompt_id, set()).add(row.reward)
    return StepRecord(
        step=batch.split.step,
        alpha=float(batch.split.alpha),
        explorer_per_group=batch.split.explorer,
        learner_per_group=batch.split.learner,
        reward=sum(row.reward for row in rows) / len(rows),
        sources={source: SourceStats.of(r for r in rows if r.source == source) for source in get_args(Source)},
        zero_variance_groups=sum(len(found) == 1 for found in rewards.values()),
        groups=len(batch.prompts),
        prompts=batch.prompts,
        digest=step_digest(rows),
        weight_version=outcome.sampled_with,
        trainer=metrics,
        seconds={},
        spans=batch.spans,
        engines=outcome.engines,
        refilled_groups=batch.refilled,
        explorer_only=batch.explorer_only,
        pipeline=_pipeline(batch, outcome.restarts),
        compute=meter.step(
            rows,
            recorded=batch.banked_prompts,
            optimizer_steps=max(1.0, metrics.get("updates", 0.0) + metrics.get("skipped_updates", 0.0)),
            trained_tokens=metrics.get("trained_tokens"),
        ),
    )


def step_record(
    numbers: StepRecord, outcome: StepOutcome, weight_sync: WeightSyncReport, times: TimeSheet, clock: StepClock
) -> StepRecord:
    """The whole record of a step that ends now. Its spans are entered in the time sheet.

    Args:
        numbers: what `step_numbers` computed from `outcome`.
        outcome: what the actors reported.
        weight_sync: report of the weight sync that ended the step.
        times: time sheet of the run.
        clock: of the step.
    """
    batch = outcome.batch
    details = {"rollouts": len(batch.summaries), "tokens": numbers.tokens, "reward": numbers.reward}
    spent = times.end(clock, batch.work, batch.under_way, outcome.trained, outcome.engines, details)
    pipeline = replace(
        numbers.pipeline,
        weight_sync_mb=weight_sync.bytes / 1e6,
        weight_sync_s=weight_sync.seconds,
        weight_sync_gb_per_s=weight_sync.broadcast_gb_per_s,
        weight_sync_drain_s=weight_sync.drain_s,
        weight_sync_stall_s=weight_sync.stall_s,
        weight_sync_verify_s=weight_sync.verify_s if weight_sync.digest else None,
    )
    return replace(
        numbers,
        seconds=spent.seconds,
        parts=spent.parts,
        busy=spent.busy,
        pipeline=pipeline,
        weights_digest=weight_sync.digest,
    )


def _pipeline(batch: StepBatch, restarts: int) -> PipelineStats:
    learners = [row for row in batch.summaries if row.source == "learner"]
    ages = [staleness(row, batch.split.step) for row in learners]
    return PipelineStats(
        prefetch_mb=batch.prefetched_bytes / 1e6,
        banked_rollouts=batch.banked,
        stragglers=len(batch.stragglers),
        staleness_mean=sum(ages) / len(ages) if ages else None,
        staleness_max=max(ages) if ages else None,
        synced_in_flight=sum(row.newest_version is not None for row in learners) if ages else None,
        stale_dropped=batch.stale_dropped,
        restarts=restarts,
        redone=batch.redone,
    )
