"""An experiment and what it found, made by hand."""

from __future__ import annotations

from typing import Any

from s2l_ray.compute import Compute
from s2l_ray.experiments.arms import PlannedRun
from s2l_ray.experiments.comparison import Comparison, compared
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.experiments.measured import MeasuredRun, Point
from s2l_ray.results import Spent

PASS_AT_1 = "eval/learner/pass_at_1"


def experiment(**changes: Any) -> ExperimentFile:
    values = {"name": "e", "arms": {"grpo": {"schedule.kind": "off"}, "ours": {}}, "seeds": 2}
    return ExperimentFile.model_validate(values | changes)


def point(step: int, value: float, flops: float) -> Point:
    cost = Compute(8 * step, {"learner": step}, {"learner": flops})
    return Point(step, {PASS_AT_1: value}, Spent(step, cost))


def run(arm: str, seed: int, *points: Point, number: int = 1) -> MeasuredRun:
    cost = Compute(8, {"learner": 10}, {"learner": 100.0}, grpo_flops=125.0, update_flops=50.0)
    return MeasuredRun(PlannedRun(number, arm, seed), "finished", "", None, points, Spent(2.0, cost))


def comparison(**changes: Any) -> Comparison:
    """Three arms and three seeds; `ours` is 0.1, 0.2 and 0.3 above `grpo`, `worse` ran with two seeds."""
    file = experiment(
        seeds=3, baseline="grpo", arms={"grpo": {"schedule.kind": "off"}, "ours": {}, "worse": {"objective.kl": 0.1}},
        **changes,
    )  # fmt: skip
    runs = []
    for seed in (1, 2, 3):
        runs.append(run("grpo", seed, point(0, 0.1, 0), point(10, 0.2, 100)))
        runs.append(run("ours", seed, point(0, 0.1, 0), point(10, 0.2 + seed / 10, 50)))
    runs += [run("worse", seed, point(0, 0.1, 0), point(10, 0.1, 200)) for seed in (1, 2)]
    runs.append(MeasuredRun(PlannedRun(9, "worse", 3), "failed", "", "out of memory"))
    return compared(file, runs, 0.95)
