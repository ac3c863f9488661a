from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from s2l_ray.config import parse_config
from s2l_ray.errors import DataError
from s2l_ray.evaluation.summary import build_summary, describe_machine, write_summary
from s2l_ray.results import SourceStats, StepRecord, hand_overs
from s2l_ray.step_log import StepLog
from tests.support.step_records import VERDICTS, evaluation, step


def config(tmp_path: Path, **changes):
    values = {
        "name": "trial",
        "run_dir": str(tmp_path),
        "models": {"learner": "l", "explorer": "e"},
        "data": {"train": "t"},
    }
    return parse_config({**values, **changes})


def test_a_summary_adds_up(tmp_path):
    only_learner = SourceStats(4, 0.75, 40, 100, 0, VERDICTS)
    steps = [
        step(1, parts={"explore": 0.75, "optimizer": 0.5, "other": 0.5}, busy={"explorer": 0.5, "learner": 0.5}),
        step(2, reward=0.75, sources={"explorer": SourceStats(0, 0.0, 0, 0, 0, VERDICTS), "learner": only_learner},
             parts={"generate": 2.0, "weight_sync": 0.25, "other": 0.25}, busy={"learner": 0.75},
             seconds={"rollout": 2.0, "weight_sync": 0.25, "total": 2.5}),
        step(3, reward=0.75, sources={"learner": only_learner}),
    ]  # fmt: skip
    summary = build_summary(
        config=config(tmp_path, tracking={"uri": "postgresql://me:secret@db/x"}),
        steps=steps,
        before=evaluation("learner", 0),
        after=evaluation("learner", 3),
        explorer=evaluation("explorer", 0),
        during=[evaluation("learner", 2)],
        model=tmp_path / "model",
        mlflow_run_id="abc",
        mlflow_uri="postgresql://me:secret@db/x",
    )
    assert summary["seconds"] == {"rollout": 4.0, "update": 1.0, "total": 6.0, "weight_sync": 0.25}
    assert summary["parts"] == {"explore": 0.75, "optimizer": 0.5, "other": 0.75, "generate": 2.0, "weight_sync": 0.25}
    # Step 2 takes 2.5 s, of which the learner's engines work 0.75, step 1 1.75 s; step 3 has no shares.
    assert summary["busy"] == {"explorer": 0.5, "learner": (0.5 * 1.75 + 0.75 * 2.5) / 4.25}
    assert summary["tokens"] == {"explorer": 40, "learner": 260}
    assert summary["rewards"] == {"all": [0.4, 0.75, 0.75], "explorer": [0.3, None, None], "learner": [0.5, 0.75, 0.75]}
    assert summary["weight_versions"] == [0, 1, 2]
    assert summary["evaluation"]["before"]["pass@8"] == 0.5 and summary["evaluation"]["explorer"]["model"] == "explorer"
    assert [e["step"] for e in summary["evaluation"]["during"]] == [2]
    assert [StepRecord.from_json(row) for row in summary["steps"]] == steps
    assert (summary["name"], summary["run_dir"], summary["model"]) == ("trial", str(tmp_path), str(tmp_path / "model"))
    assert summary["config"]["rollout"]["group_size"] == 8
    assert summary["versions"]["torch"] and set(summary["versions"]) == {
        "s2l-ray",
        "torch",
        "vllm",
        "ray",
        "transformers",
    }
    assert "secret" not in json.dumps(summary) and summary["mlflow_run_id"] == "abc"


def test_a_run_without_steps_or_evaluation_has_a_summary(tmp_path):
    summary = build_summary(config=config(tmp_path), steps=[], machine={"cpus": 3})
    assert summary["evaluation"] == {"before": None, "after": None, "explorer": None, "during": [], "change": None}
    assert (summary["seconds"], summary["model"], summary["mlflow_uri"]) == ({}, None, None)
    assert summary["machine"] == {"cpus": 3}


def test_a_written_summary_is_strict_json(tmp_path):
    summary = build_summary(config=config(tmp_path), steps=[step(1, trainer={"kl": math.nan, "gap": math.inf})])
    path = tmp_path / "new" / "summary.json"
    write_summary(path, summary)
    write_summary(path, summary)

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(path.read_text(), parse_constant=refuse) == summary
    assert summary["steps"][0]["trainer"] == {"kl": None, "gap": None}
    assert os.listdir(path.parent) == ["summary.json"]


def test_a_summary_that_fails_to_write_leaves_the_old_one(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, {"a": 1})
    with pytest.raises(TypeError):
        write_summary(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_machine():
    machine = describe_machine()
    assert machine["cpus"] >= 1 and isinstance(machine["gpus"], list)


def test_steps_come_back_as_written(tmp_path):
    log = StepLog(tmp_path / "run" / "steps.jsonl")
    assert log.read() == []
    records = [step(1), step(2, trainer={"loss": 1e-17, "entropy": 3.0})]
    for record in records:
        log.append(record)
    assert StepLog(log.path).read() == records
    assert len(log.path.read_text().splitlines()) == 2


def test_a_number_that_is_not_finite_survives_as_nan(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    log.append(step(1, trainer={"kl": math.nan, "loss": 0.5}))
    assert "NaN" not in log.path.read_text()
    (record,) = log.read()
    assert math.isnan(record.trainer["kl"]) and record.trainer["loss"] == 0.5


@pytest.mark.parametrize("resumed", ["steps.jsonl", "another.jsonl"])
def test_resume_goes_on_from_the_checkpoints_steps(tmp_path, resumed):
    """In the same run, which had gone on, and in another one, which has no steps of its own."""
    log, kept = StepLog(tmp_path / "steps.jsonl"), tmp_path / "checkpoint.jsonl"
    for number in range(1, 6):
        if number == 4:
            log.copy_to(kept)
        log.append(step(number))
    log = StepLog(tmp_path / resumed)
    log.restore(kept)
    log.append(step(4, reward=0.9))
    assert [(r.step, r.reward) for r in log.read()] == [(1, 0.4), (2, 0.4), (3, 0.4), (4, 0.9)]
    log.clear()
    log.clear()
    assert log.read() == []


def test_a_line_torn_at_any_byte_is_tolerated(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    log.append(step(1))
    first = log.path.read_bytes()
    log.append(step(2))
    whole = log.path.read_bytes()
    for cut in range(len(first), len(whole)):
        log.path.write_bytes(whole[:cut])
        expected = [1, 2] if cut == len(whole) - 1 else [1]  # only the newline is missing: the record is whole
        assert [r.step for r in log.read()] == expected
        if cut % 29 == 0 or cut == len(whole) - 1:  # each append waits for the disk
            log.append(step(3))
            assert [r.step for r in log.read()] == [*expected, 3]


def test_a_spoilt_line_in_the_middle_is_an_error(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    for number in (1, 2, 3):
        log.append(step(number))
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], '{"step": 2}', lines[2]]) + "\n")
    with pytest.raises(DataError, match=r"steps\.jsonl, line 2"):
        log.read()


def test_hand_overs_by_hand():
    def at(number: int, explorers: int, learners: int, **seconds: float) -> StepRecord:
        return step(number, engines={"explorer": explorers, "learner": learners}, seconds=seconds)

    steps = [
        at(1, 1, 1, rollout=9.0, update=1.0, weight_sync=0.5, evaluate=50.0),
        at(2, 1, 1, rollout=3.0, update=1.0, weight_sync=0.5),
        at(3, 1, 1, rollout=4.0, update=1.0, weight_sync=0.5, checkpoint=7.0),
        at(4, 0, 2, rollout=30.0, update=1.0, weight_sync=0.5),  # waits for the engine: counted on neither side
        at(5, 0, 2, rollout=1.5, update=1.0, weight_sync=0.5),
    ]
    assert hand_overs(steps) == [
        {
            "step": 4,
            "engines_before": {"explorer": 1, "learner": 1},
            "engines_after": {"explorer": 0, "learner": 2},
            "seconds_before": 5.5,  # the median of 10.5, 4.5 and 5.5
            "seconds_after": 3.0,
        }
    ]
    assert hand_overs(steps[:4])[0]["seconds_after"] is None
    assert hand_overs(steps[:3]) == []


def test_a_whole_line_of_another_version_is_not_taken_for_a_torn_one(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    row = step(1).to_json()
    row["pipeline"] = {"ahead_mb": 1.0}
    log.path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="line 1: written by another version of s2l-ray; read it with that version"):
        log.read()
    log.path.write_text("[]\n")
    with pytest.raises(DataError, match="line 1: not a step record; restore the file"):
        log.read()
