"""Constants that a run was simulated with come back out of its records."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.show.serialise import plan_json
from s2l_ray.planner.simulate.calibration import Calibration, calibrate
from s2l_ray.planner.simulate.measured_run import host_layout, own_seconds, read_run
from s2l_ray.planner.simulate.simulation import simulate
from s2l_ray.planner.simulate.solved import Solved, fit_solved
from tests.support.simulated_runs import TRUTH, config, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("calibration") / "run", config())


@pytest.fixture(scope="module")
def found(run: Path) -> Calibration:
    return calibrate(run, cores=2.0)


def test_rollouts_with_line_ends_of_unicodes_own_are_read(run: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "rollouts").mkdir(exist_ok=True)
    rows = [{"source": "learner", "tokens": tokens, "response": "a\u2028b\x85c"} for tokens in (7, 9)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (copy / "rollouts" / "step-000001.jsonl").write_text(text, encoding="utf-8")
    assert read_run(copy).lengths["learner"] == (7, 9)


def test_the_simulators_constants_come_back(found: Calibration):
    constants = found.constants
    assert constants.weight_sync_s == pytest.approx(0.07)
    assert constants.step_s == pytest.approx(TRUTH.step_s)
    assert constants.pass_token_s == pytest.approx(TRUTH.pass_token_s, rel=0.1)
    assert constants.train_rollout_s == pytest.approx(TRUTH.train_rollout_s, rel=0.1)
    for source, engine in constants.engines.items():
        truth = TRUTH.engines[source]
        assert engine.request_s == pytest.approx(truth.request_s, rel=0.25)
        assert engine.width == pytest.approx(truth.width, rel=0.1)
        for batch in (8, 32, 64):
            assert engine.decode_s(batch) == pytest.approx(truth.decode_s(batch), rel=0.2)
    assert all(abs(error) < 0.05 for error in found.errors.values())


@pytest.mark.parametrize(
    "other",
    [config(group_size=8), config(group_size=2), config(mix_steps=4), config(prompts=16), config(learners=2)],
    ids=["G = 8", "G = 2", "T_mix = 4", "16 prompts", "2 learner engines"],
)
def test_they_predict_runs_of_other_settings(found: Calibration, other: Config):
    real = simulate(other, host_layout(other), TRUTH)
    assert simulate(other, host_layout(other), found.constants).step_seconds == pytest.approx(
        real.step_seconds, rel=0.05
    )


def test_right_rollouts_and_groups_without_variance_come_back():
    truth, rng = Solved({"explorer": -2.0, "learner": -0.5}, 1.5), np.random.default_rng(3)
    splits, right, equal = [], {"explorer": 0, "learner": 0}, 0
    for explorer in (4, 3, 2, 1, 0):
        drawn = truth.draw(rng, 4000, {"explorer": explorer, "learner": 4 - explorer})
        solutions = drawn["explorer"].sum(axis=1) + drawn["learner"].sum(axis=1)
        equal += int(((solutions == 0) | (solutions == 4)).sum())
        right = {source: right[source] + int(drawn[source].sum()) for source in right}
        splits.append((explorer, 4 - explorer, 4000))
    again = fit_solved(splits, right, equal)
    assert again.spread == pytest.approx(1.5, abs=0.1)
    assert again.logits == pytest.approx(truth.logits, abs=0.1)


def test_all_right_or_never_right_are_logits_far_out():
    assert fit_solved([(2, 2, 10)], {"explorer": 0, "learner": 20}, 0).logits == {"explorer": -60.0, "learner": 60.0}


def test_medians_are_of_rollout_update_and_weight_sync_after_the_warm_up(run: Path):
    measured = read_run(run)
    assert [r.step for r in measured.records] == list(range(3, 25))
    assert own_seconds(measured.records[0]) == pytest.approx(measured.records[0].seconds["total"] - 0.5)


def test_what_is_no_run_is_told(run: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="config.yaml is missing"):
        calibrate(tmp_path)
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    (tmp_path / "steps.jsonl").write_text("".join(lines[:9]))
    with pytest.raises(ConfigError, match="has 9 steps; calibrating needs 10 or more"):
        calibrate(tmp_path)
    old = [json.dumps({**json.loads(line), "spans": {}}) + "\n" for line in lines]
    (tmp_path / "steps.jsonl").write_text("".join(old))
    with pytest.raises(ConfigError, match="did not record `spans`"):
        calibrate(tmp_path)


def test_a_run_that_lasts_or_is_damaged(run: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with (copy / "steps.jsonl").open("a") as log:
        log.write('{"step": 25, "al')  # being written, or cut off
    assert len(read_run(copy).records) == 22
    for name in ("plan.json", "summary.json"):
        before = (copy / name).read_text() if (copy / name).exists() else None
        for content in ('{"steps": [', "{}"):
            (copy / name).write_text(content)
            with pytest.raises(DataError, match=f"{name} is damaged .*; restore it, or calibrate on another run"):
                read_run(copy)
        (copy / name).unlink() if before is None else (copy / name).write_text(before)


def test_a_run_tells_who_sat_where(run: Path, tmp_path: Path):
    plan = make_plan(config(), Inventory.of([{"count": 2, "gpus": 2, "gpu": "logical", "cpus": 4}]))
    for name in ("config.yaml", "steps.jsonl"):
        (tmp_path / name).write_text((run / name).read_text())
    assert read_run(tmp_path).layout == host_layout(config())
    (tmp_path / "plan.json").write_text(plan_json(plan, config().models))
    assert read_run(tmp_path).layout == plan.layout
    layout = replace(plan.layout, recomputed_layers=11, replicas=2)  # as only plans for GPUs have them
    (tmp_path / "plan.json").write_text(plan_json(replace(plan, layout=layout), config().models))
    assert read_run(tmp_path).layout == layout
