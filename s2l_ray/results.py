"""What a run reports: a record for each step and each evaluation. They hold numbers, no tokens."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from s2l_ray.compute import Compute, total
from s2l_ray.kinds import HealthCondition, Source, VerdictStatus
from s2l_ray.rollouts.records import RolloutSummary


@dataclass(frozen=True)
class SourceStats:
    """The rollouts of one source in one step."""

    rollouts: int
    reward: float
    """Mean reward; 0 when there are no rollouts (see `rollouts`)."""
    prompt_tokens: int
    response_tokens: int
    truncated: int
    verdicts: dict[str, int]
    """Number of rollouts by verdict status: right, wrong, unparsable, timeout, failed."""
    empty: int = 0
    """Responses without any text but blanks."""
    repetitive: int = 0
    """Responses that repeat themselves (`rollouts.repetition`)."""
    non_finite: int = 0
    """Rollouts with a reward or log-probs that are NaN or infinite."""
    garbage: int = 0
    """Rollouts of which any of these three is true, or that were truncated, or whose verdict is unparsable."""

    @classmethod
    def of(cls, summaries: Iterable[RolloutSummary]) -> SourceStats:
        """Count these rollouts."""
        rows = list(summaries)
        return cls(
            rollouts=len(rows),
            reward=sum(r.reward for r in rows) / len(rows) if rows else 0.0,
            prompt_tokens=sum(r.prompt_tokens for r in rows),
            response_tokens=sum(r.response_tokens for r in rows),
            truncated=sum(r.truncated for r in rows),
            verdicts={s: sum(r.status == s for r in rows) for s in get_args(VerdictStatus)},
            empty=sum(r.empty for r in rows),
            repetitive=sum(r.repetitive for r in rows),
            non_finite=sum(not r.finite for r in rows),
            garbage=sum(r.garbage for r in rows),
        )


@dataclass(frozen=True)
class PipelineStats:
    """How far sampling ran ahead of training in one step, and the weight sync that ended it.

    The names are those of `pipeline` in steps.jsonl and, after `pipeline/`, those of MLflow's metrics. A megabyte is
    10**6 bytes.
    """

    prefetch_mb: float = 0.0
    """Megabytes that the explorer's rollouts of coming steps hold, or may come to hold, in the object store."""
    banked_rollouts: int = 0
    """Rollouts of the step that were read from the bank."""
    stragglers: int = 0
    """Groups that the step did not wait for (rollout.straggler_groups)."""
    staleness_mean: float | None = None
    """Mean over the learner's rollouts of the weight versions between their oldest token and the step's update, 0 when
    they are on-policy; None if the learner sampled nothing."""
    staleness_max: int | None = None
    """Largest staleness of the learner's rollouts, likewise."""
    synced_in_flight: int | None = None
    """The learner's rollouts that a weight sync caught while they were sampled; None likewise."""
    stale_dropped: int = 0
    """The learner's rollouts that exceeded rollout.max_staleness, and were sampled again."""
    restarts: int = 0
    """Actors that were started again since the step before because they had died or hung (`recovery`); the trainer's
    ranks count as one."""
    redone: int = 0
    """Requests that another engine sampled again, or another verifier checked again, for the same reason."""
    weight_sync_mb: float = 0.0
    """Megabytes of weights, counted once, whatever the number of engines."""
    weight_sync_s: float = 0.0
    """Seconds from the driver's begin to the last engine that holds the new version."""
    weight_sync_gb_per_s: float = 0.0
    """10**9 bytes of weights per second of the broadcast."""
    weight_sync_drain_s: float = 0.0
    """Longest wait in seconds of an engine for its running requests."""
    weight_sync_stall_s: float = 0.0
    """Longest time in seconds for which an awake engine sampled nothing."""
    weight_sync_verify_s: float | None = None
    """Seconds of weight_sync_s in which the engines' weights were compared with the trainer's; None if they were not
    (cluster.verify_weights)."""

    def to_json(self) -> dict[str, float]:
        """Values by name, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class StepRecord:
    """One logical step. Written to `steps.jsonl` as it ends, collected in `summary.json`."""

    step: int
    """1-based."""
    alpha: float
    """The explorer's share of each group by the schedule, before rounding."""
    explorer_per_group: int
    """G_w."""
    learner_per_group: int
    """G_s."""
    reward: float
    """Mean over all rollouts of the step."""
    sources: dict[Source, SourceStats]
    zero_variance_groups: int
    groups: int
    prompts: list[str]
    """Ids of the prompts that were trained on, in the order of the data."""
    digest: str
    """Hash over every group's prompt id and response tokens: equal digests mean the same groups, to the token."""
    weight_version: int
    """The version that the step's learner rollouts were sampled with."""
    trainer: dict[str, float]
    """Metrics of the update: loss, grad_norm, learning_rate, ratio_mean, clip_fraction, kl, logprob_gap and others."""
    seconds: dict[str, float]
    """Wall-clock seconds by phase (`timing.clock.PHASES`), and their `total` with what is in no phase."""
    spans: dict[str, float] = field(default_factory=dict)
    """Seconds from the first request of a source to its last verdict: "explore" and "learner_generate". They overlap
    each other and, since the explorer samples ahead, the phases of earlier steps."""
    engines: dict[Source, int] = field(default_factory=dict)
    """How many engines sampled for each source."""
    refilled_groups: int = 0
    """Groups sampled to replace groups without variance (rollout.refill_rounds), used or not."""
    explorer_only: tuple[int, int] = (0, 0)
    """(groups that only the explorer solved, groups that both sources sampled)."""
    parts: dict[str, float] = field(default_factory=dict)
    """The wall-clock seconds of the step by cause (`timing.attribution.PARTS`). They add up to `seconds["total"]`."""
    busy: dict[str, float] = field(default_factory=dict)
    """By role (explorer, learner, verifier, trainer): the share of the time in which its actors worked, for any step,
    between the completion of the previous step's groups and of this step's groups; the mean over the actors."""
    pipeline: PipelineStats = PipelineStats()
    weights_digest: str | None = None
    """Digest of the weights after the step's update, which every learner engine was found to hold
    (`weights.digest.combined_digest`); None without cluster.verify_weights."""
    health: dict[HealthCondition, int] = field(default_factory=dict)
    """Condition -> for how many steps in a row, up to this one, it has held."""
    compute: Compute | None = None
    """FLOPs and tokens of the step; None in records that earlier versions have written."""

    @property
    def tokens(self) -> int:
        """Sampled tokens."""
        return sum(s.response_tokens for s in self.sources.values())

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, but for numbers that are not finite (see `finite`)."""
        compute = self.compute and self.compute.to_json()
        return asdict(self) | {"pipeline": self.pipeline.to_json(), "compute": compute}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> StepRecord:
        """The record that `to_json` and `finite` made `row` of.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: it is not a record.
        """
        return cls(
            **{
                **row,
                "sources": {name: SourceStats(**stats) for name, stats in row["sources"].items()},
                "trainer": {name: math.nan if value is None else value for name, value in row["trainer"].items()},
                "explorer_only": tuple(row.get("explorer_only", (0, 0))),
                "pipeline": PipelineStats(**row.get("pipeline", {})),
                "compute": Compute.from_json(row["compute"]) if row.get("compute") else None,
            }
        )


TRAINING_PHASES = ("hand_over", "rollout", "update", "weight_sync")
"""The phases of a step (`timing.clock.PHASES`) that training takes, whether or not it is evaluated and saved."""


@dataclass(frozen=True)
class Spent:
    """What a run has spent on training up to some step."""

    seconds: float
    """Wall-clock time of the steps' `TRAINING_PHASES`."""
    compute: Compute | None
    """FLOPs and tokens; None if an earlier version has written one of the records."""

    @classmethod
    def on(cls, steps: Sequence[StepRecord]) -> Spent:
        """On these steps."""
        seconds = sum(step.seconds.get(phase, 0.0) for step in steps for phase in TRAINING_PHASES)
        return cls(seconds, total(step.compute for step in steps))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"seconds": self.seconds, "compute": self.compute and self.compute.to_json()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Spent:
        """What `to_json` made `row` of."""
        return cls(row["seconds"], Compute.from_json(row["compute"]) if row["compute"] else None)


SAME_REWARD = 1e-9
"""Means of rewards that differ by less are the same."""


@dataclass(frozen=True)
class EvaluationRecord:
    """Held-out pass@k of one model with the weights of one step."""

    step: int
    model: Source
    weight_version: int
    problems: int
    samples: int
    pass_at: dict[int, float]
    """k -> estimate in [0, 1]."""
    ci: dict[int, tuple[float, float]]
    """k -> confidence interval over problems."""
    reward: float
    response_tokens: int
    correct: list[int]
    """Number of right answers to each problem, in the order of the held-out file."""
    seconds: float = 0.0
    """Wall-clock time that it took."""
    spent: Spent | None = None
    """What training had spent before it; None in records that earlier versions have written."""
    files: dict[str, EvaluationRecord] = field(default_factory=dict)
    """Of the problems of each file, by its stem, where data.eval is a directory; without `seconds` and `spent`."""

    @property
    def graded(self) -> bool:
        """Whether rewards say more than pass@k: a right answer did not always get 1, or a wrong one 0."""
        return abs(self.reward - sum(self.correct) / (self.problems * self.samples)) > SAME_REWARD

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, with the keys "pass@k" at its top level, where users look for them."""
        row = asdict(self) | {"spent": self.spent and self.spent.to_json()}
        row["files"] = {name: record.to_json() for name, record in self.files.items()}
        pass_at, ci = row.pop("pass_at"), row.pop("ci")
        row |= {f"pass@{k}": value for k, value in pass_at.items()}
        row["ci"] = {f"pass@{k}": list(bounds) for k, bounds in ci.items()}
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> EvaluationRecord:
        """The record that `to_json` made `row` of."""
        row = dict(row)
        ci = {int(k.removeprefix("pass@")): tuple(bounds) for k, bounds in row.pop("ci").items()}
        pass_at = {k: row.pop(f"pass@{k}") for k in ci}
        spent = row.pop("spent", None)
        files = {name: cls.from_json(record) for name, record in row.pop("files", {}).items()}
        return cls(**row, pass_at=pass_at, ci=ci, spent=Spent.from_json(spent) if spent else None, files=files)


def hand_overs(steps: Sequence[StepRecord]) -> list[dict[str, Any]]:
    """Every change in the number of engines, with the step time around it, as `evaluation.summary` documents it."""
    found = []
    for at in range(1, len(steps)):
        before, after = steps[at - 1], steps[at]
        if before.engines != after.engines:
            found.append(
                {
                    "step": after.step,
                    "engines_before": before.engines,
                    "engines_after": after.engines,
                    "seconds_before": _step_seconds(steps[max(0, at - 5) : at]),
                    "seconds_after": _step_seconds(steps[at + 1 : at + 6]),
                }
            )
    return found


def health_of(records: Sequence[StepRecord]) -> dict[str, dict[str, Any]]:
    """Every condition that has held -> {"steps": how many, "first": the first of them, "longest": in a row}."""
    found: dict[str, dict[str, Any]] = {}
    for before, record in zip([None, *records], records, strict=False):
        for name, count in record.health.items():
            if count > (before.health.get(name, 0) if before else 0):
                row = found.setdefault(name, {"steps": 0, "first": record.step, "longest": 0})
                row["steps"] += 1
                row["longest"] = max(row["longest"], count)
    return found


def _step_seconds(steps: Sequence[StepRecord]) -> float | None:
    times = [sum(s.seconds.get(phase, 0.0) for phase in ("rollout", "update", "weight_sync")) for s in steps]
    return statistics.median(times) if times else None


def finite(value: Any) -> Any:
    """`value` with None for every number that is not finite: JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
