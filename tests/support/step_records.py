"""Step records and evaluations as a run writes them."""

from __future__ import annotations

from dataclasses import replace

from s2l_ray.results import EvaluationRecord, SourceStats, StepRecord

VERDICTS = {"right": 1, "wrong": 1, "unparsable": 0, "timeout": 0}


def step(number: int, **changes) -> StepRecord:
    record = StepRecord(
        step=number,
        alpha=0.5,
        explorer_per_group=1,
        learner_per_group=1,
        reward=0.4,
        sources={
            "explorer": SourceStats(2, 0.3, 20, 40, 0, VERDICTS),
            "learner": SourceStats(2, 0.5, 20, 60, 0, VERDICTS),
        },
        zero_variance_groups=0,
        groups=2,
        prompts=["a", "b"],
        digest="00",
        weight_version=number - 1,
        trainer={"loss": 0.25},
        seconds={"rollout": 1.0, "update": 0.5, "total": 1.75},
    )
    return replace(record, **changes)


def evaluation(model: str, at: int) -> EvaluationRecord:
    return EvaluationRecord(
        at, model, at, 10, 8, {1: 0.2, 8: 0.5}, {1: (0.1, 0.3), 8: (0.4, 0.6)}, 0.2, 500, [2] * 10, 2.0
    )
