"""Constants that a run was simulated with come back out of its records."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.config import Config, parse_config
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.show.serialise import plan_json
from s2l_ray.planner.simulate.calibration import Calibration, calibrate
from s2l_ray.planner.simulate.constants import Constants, EngineConstants
from s2l_ray.planner.simulate.measured_run import host_layout, own_seconds, read_run
from s2l_ray.planner.simulate.simulated_run import SimulatedStep
from s2l_ray.planner.simulate.simulation import evaluation_seconds, simulate
from s2l_ray.planner.simulate.solved import Solved, fit_solved
from s2l_ray.results import SourceStats, StepRecord

TRUTH = Constants(
    engines={
        "explorer": EngineConstants(((0.0, 0.004), (64.0, 0.012)), request_s=0.003, sequences=64, width=1.3),
        "learner": EngineConstants(((0.0, 0.009), (64.0, 0.025)), request_s=0.003, sequences=64, width=1.3),
    },
    pass_token_s=2e-5,
    optimizer_s=0.0,
    train_rollout_s=8e-4,
    weight_sync_s=0.07,
    step_s=0.012,
    cores=2.0,
    lengths={"explorer": (12,), "learner": (12,)},
    prompt_tokens=6.0,
    solved=Solved({"explorer": -2.0, "learner": -1.0}, 1.0),
)


def config(group_size: int = 4, prompts: int = 8, steps: int = 24, mix_steps: int = 16, learners: int = 1) -> Config:
    engine = {"max_num_seqs": 64}
    return parse_config(
        {
            "models": {"learner": "Qwen/Qwen3-1.7B", "explorer": "Qwen/Qwen3-0.6B"},
            "data": {"train": "train.jsonl"},
            "verifier": {"kind": "countdown"},
            "rollout": {"group_size": group_size, "prompts_per_step": prompts, "max_tokens": 12},
            "schedule": {"steps": steps, "mix_steps": mix_steps},
            "engines": {"learner": {**engine, "count": learners}, "explorer": engine},
            "evaluation": {"samples": 1, "k": [1]},
        }
    )


def record(step: SimulatedStep, settings: Config, rng: np.random.Generator) -> StepRecord:
    """As a run would have written it, with rewards as TRUTH has them."""
    share = settings.schedule.build(settings.rollout.group_size).share(step.step)
    prompts = settings.rollout.prompts_per_step
    counts = {"explorer": share.explorer, "learner": share.learner}
    right = TRUTH.solved.draw(rng, prompts, counts)
    solutions = sum(found.sum(axis=1) for found in right.values())
    varied = (solutions > 0) & (solutions < settings.rollout.group_size)
    sources = {
        source: SourceStats(
            rollouts=prompts * count,
            reward=0.0,
            prompt_tokens=6 * prompts * count,
            response_tokens=12 * prompts * count,
            truncated=0,
            verdicts={"right": int(right[source].sum()), "wrong": 0, "unparsable": 0, "timeout": 0},
        )
        for source, count in counts.items()
    }
    return StepRecord(
        step=step.step,
        alpha=float(share.alpha),
        explorer_per_group=share.explorer,
        learner_per_group=share.learner,
        reward=0.0,
        sources=sources,
        zero_variance_groups=int((~varied).sum()),
        groups=prompts,
        prompts=[str(n) for n in range(prompts)],
        digest="",
        weight_version=step.step - 1,
        trainer={"trained_tokens": 12.0 * settings.rollout.group_size * int(varied.sum())},
        seconds={**step.seconds, "total": step.seconds["total"] + 0.5},
        spans=step.spans,
    )


def write_run(target: Path, settings: Config) -> Path:
    """A run directory with simulated times. Its updates took what the tokens of its records cost."""
    target.mkdir()
    rng = np.random.default_rng(5)
    layout = host_layout(settings)
    blank = [record(step, settings, rng) for step in simulate(settings, layout, TRUTH).steps]
    trained = {r.step: r.trainer["trained_tokens"] * 1.5 for r in blank}  # 12 response tokens, 6 of the prompt
    timed = simulate(settings, layout, TRUTH, trained=trained).steps
    rows = [
        replace(r, seconds={**s.seconds, "total": s.seconds["total"] + 0.5}, spans=s.spans)
        for r, s in zip(blank, timed, strict=True)
    ]
    (target / "config.yaml").write_text(settings.to_yaml())
    (target / "steps.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    after = {"step": 24, "problems": 64, "samples": 1, "seconds": evaluation_seconds(settings, layout, TRUTH, 64, 1)}
    (target / "summary.json").write_text(json.dumps({"evaluation": {"after": after, "during": []}}))
    return target


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("calibration") / "run", config())


@pytest.fixture(scope="module")
def found(run: Path) -> Calibration:
    return calibrate(run, cores=2.0)


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
        (copy / name).write_text('{"steps": [')
        with pytest.raises(DataError, match=f"{name} is damaged .*; restore it, or calibrate on another run"):
            read_run(copy)
        (copy / name).unlink() if before is None else (copy / name).write_text(before)


def test_a_run_tells_who_sat_where(run: Path, tmp_path: Path):
    plan = make_plan(config(), Inventory.of([{"count": 2, "gpus": 2, "gpu": "logical", "cpus": 4}]))
    for name in ("config.yaml", "steps.jsonl"):
        (tmp_path / name).write_text((run / name).read_text())
    assert read_run(tmp_path).layout == host_layout(config())
    (tmp_path / "plan.json").write_text(plan_json(plan))
    assert read_run(tmp_path).layout == plan.layout
