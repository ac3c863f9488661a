from __future__ import annotations

import json

import pytest

from s2l_ray.config import parse_config
from s2l_ray.evaluation.held_out import Evaluations, measure
from s2l_ray.kinds import Source
from s2l_ray.results import EvaluationRecord
from s2l_ray.rollouts.records import RolloutSummary
from s2l_ray.tracking.metrics import evaluation_metrics

CONFIG = parse_config(
    {
        "name": "trial",
        "models": {"learner": "l", "explorer": "e"},
        "data": {"train": "t", "eval": "h"},
        "evaluation": {"samples": 4, "k": [1, 2, 4]},
    }
)


def row(problem: str, index: int, status: str) -> RolloutSummary:
    right = float(status == "right")
    return RolloutSummary(problem, "learner", index, 3, right, status, 7, 10, False, "00")


def rows() -> list[RolloutSummary]:
    """Of four samples each: a has two right ones, b none, c one; those of several problems mixed."""
    statuses = {"a": "right wrong right timeout", "b": "wrong wrong unparsable wrong", "c": "wrong right wrong wrong"}
    return [row(p, i, found.split()[i]) for i in reversed(range(4)) for p, found in statuses.items()]


def test_pass_at_k_by_hand():
    record = measure(CONFIG, ["c", "b", "a"], rows(), step=5, source="learner", weight_version=3, seconds=1.5)
    assert record.correct == [1, 0, 2]
    # 1 - C(n - c, k) / C(n, k), mean of three problems. k = 2: (3/6, 0, 5/6); k = 4: (1, 0, 1).
    assert record.pass_at == pytest.approx({1: 3 / 12, 2: (1 / 2 + 5 / 6) / 3, 4: 2 / 3})
    assert all(low <= record.pass_at[k] <= high for k, (low, high) in record.ci.items())
    assert (record.reward, record.response_tokens, record.problems, record.samples) == (0.25, 120, 3, 4)
    assert (record.step, record.model, record.weight_version, record.seconds) == (5, "learner", 3, 1.5)


def test_each_file_of_a_directory_is_measured_by_itself():
    files = {"first": ["c", "a"], "second": ["b", "a"]}
    record = measure(
        CONFIG, ["c", "a", "b"], rows(), step=5, source="learner", weight_version=3, seconds=1.5, files=files
    )
    first, second = record.files["first"], record.files["second"]
    assert (first.correct, second.correct) == ([1, 2], [0, 2])  # a is in both files
    assert first.pass_at == pytest.approx({1: 3 / 8, 2: (1 / 2 + 5 / 6) / 2, 4: 1})
    assert second.pass_at == pytest.approx({1: 2 / 8, 2: 5 / 12, 4: 1 / 2})
    assert (first.reward, second.reward, first.response_tokens, first.problems) == (3 / 8, 2 / 8, 80, 2)
    assert (first.seconds, first.spent) == (0.0, None)
    assert EvaluationRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    named = {name: value for name, value in evaluation_metrics(record).items() if name.count("/") == 3}
    assert named == {
        "eval/learner/first/reward": 3 / 8,
        **{f"eval/learner/first/pass_at_{k}": value for k, value in first.pass_at.items()},
        "eval/learner/second/reward": 2 / 8,
        **{f"eval/learner/second/pass_at_{k}": value for k, value in second.pass_at.items()},
    }


def test_a_checkpoint_keeps_what_was_evaluated():
    record = measure(CONFIG, ["a", "b", "c"], rows(), step=0, source="learner", weight_version=0, seconds=1.0)
    later = measure(CONFIG, ["a", "b", "c"], rows(), step=7, source="learner", weight_version=7, seconds=2.0)
    for found in (Evaluations(), Evaluations(before=record, during=[later]), Evaluations(record, record, later)):
        assert Evaluations.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_newest_evaluation_is_the_learners_of_the_latest_step():
    def at(step: int, source: Source = "learner") -> EvaluationRecord:
        return measure(CONFIG, ["a", "b", "c"], rows(), step=step, source=source, weight_version=step, seconds=1.0)

    assert Evaluations().newest is None and Evaluations(explorer=at(9, "explorer")).newest is None
    assert Evaluations(before=at(0)).newest == at(0)
    assert Evaluations(before=at(0), during=[at(2), at(4)]).newest == at(4)
    assert Evaluations(before=at(0), during=[at(2)], after=at(4)).newest == at(4)
    # A run that got to its end at step 4 and goes on to more of them: what was the last is one in between.
    assert Evaluations(before=at(0), during=[at(2), at(6)], after=at(4)).newest == at(6)
