"""The held-out evaluations of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from s2l_ray.kinds import Source
from s2l_ray.results import EvaluationRecord, Spent
from s2l_ray.rollouts.records import RolloutSummary
from s2l_ray.statistics.pass_at_k import evaluate_counts

if TYPE_CHECKING:
    from s2l_ray.config import Config

NO_FILES: Mapping[str, Sequence[str]] = {}
ONCE = ("before", "explorer", "after")


@dataclass
class Evaluations:
    """The evaluations of a run so far."""

    before: EvaluationRecord | None = None
    """The learner before the first step."""
    explorer: EvaluationRecord | None = None
    """The explorer, which training does not change."""
    after: EvaluationRecord | None = None
    """The learner after the last step."""
    during: list[EvaluationRecord] = field(default_factory=list)
    """The learner in between (evaluation.every)."""

    @property
    def newest(self) -> EvaluationRecord | None:
        """The learner's of the latest step."""
        learners = [record for record in (self.before, *self.during, self.after) if record is not None]
        return max(learners, key=lambda record: record.step, default=None)

    def to_json(self) -> dict[str, Any]:
        """The records as JSON values, for the state of a checkpoint."""
        once = {when: record.to_json() for when in ONCE if (record := getattr(self, when)) is not None}
        return {"evaluations": once, "during": [record.to_json() for record in self.during]}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Evaluations:
        """Read the records from the state of a checkpoint."""
        once = {when: EvaluationRecord.from_json(row) for when, row in state["evaluations"].items()}
        return cls(**once, during=[EvaluationRecord.from_json(row) for row in state["during"]])


def measure(
    config: Config,
    problem_ids: Sequence[str],
    rows: Sequence[RolloutSummary],
    *,
    step: int,
    source: Source,
    weight_version: int,
    seconds: float = 0.0,
    spent: Spent | None = None,
    files: Mapping[str, Sequence[str]] = NO_FILES,
) -> EvaluationRecord:
    """pass@k of evaluation rollouts, with intervals.

    Args:
        config: of the run.
        problem_ids: in the order of the held-out file.
        rows: evaluation.samples rollouts of each problem, in any order.
        step: after which they were sampled; 0: before training.
        source: the model that sampled them.
        weight_version: of that model.
        seconds: wall-clock time that sampling and verifying took; not known of a file.
        spent: on training before.
        files: ids of the problems of each file that is to be measured by itself, too.
    """
    settings = config.evaluation
    right = Counter(row.prompt_id for row in rows if row.status == "right")
    correct = [right[problem_id] for problem_id in problem_ids]
    pass_at, ci = evaluate_counts(correct, settings.samples, settings.k, settings.confidence, config.seed)
    return EvaluationRecord(
        step=step,
        model=source,
        weight_version=weight_version,
        problems=len(correct),
        samples=settings.samples,
        pass_at=pass_at,
        ci=ci,
        reward=sum(row.reward for row in rows) / len(rows),
        response_tokens=sum(row.response_tokens for row in rows),
        correct=correct,
        seconds=seconds,
        spent=spent,
        files={
            name: measure(config, ids, _of(rows, ids), step=step, source=source, weight_version=weight_version)
            for name, ids in files.items()
        },
    )


def _of(rows: Sequence[RolloutSummary], problem_ids: Sequence[str]) -> list[RolloutSummary]:
    wanted = set(problem_ids)
    return [row for row in rows if row.prompt_id in wanted]
