"""Whole runs on Ray clusters of two nodes with logical GPUs, in each mode: to the token the groups of a plain CPU run.

The engines are real and sample on CPUs; what is counted, reserved, pinned, handed over and put to sleep is as on GPUs.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group_table

from s2l_ray import S2LPO, load_config
from s2l_ray.step_log import StepLog
from tests.support.logical_cluster import logical_cluster
from tests.support.notes import Notes
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.undisturbed import QUICKSTART, Undisturbed


def trained(algo: S2LPO) -> list[dict]:
    """The records of all steps, as JSON values."""
    while not algo.train()["done"]:
        pass
    return [record.to_json() for record in algo.run.records]


def wait_for_gpus(count: int) -> None:
    """Until the cluster has so many free: nodes report it a moment after the group is removed."""
    deadline = time.monotonic() + PATIENCE_S
    while ray.available_resources().get("GPU") != count:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("mode", "gpus", "explorers", "learners"),
    [
        # One trainer rank, one learner and one explorer engine at first; G_w = 0 from step 4 on.
        pytest.param("separate", [2, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 2, 2, 2], marks=pytest.mark.long),
        pytest.param("mixed", [1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 2, 2, 2]),
        ("colocated", [1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_every_mode_gives_the_same_groups(run: Undisturbed, family, tmp_path: Path, mode, gpus, explorers, learners):
    overrides = run_config(family, tmp_path / "run") | {
        "placement.mode": mode,
        "placement.hand_over": "on",
        "placement.hand_over_wait_s": PATIENCE_S,
        "trainer.ranks": 1,  # more would add up gradients in another order, and other last bits sample other tokens
        "tracking.enabled": False,
    }
    notes = Notes()
    with logical_cluster(gpus):
        algo = S2LPO(load_config(QUICKSTART, overrides), notes)
        try:
            assert algo.plan.mode == mode
            group = [g for g in placement_group_table().values() if g["state"] == "CREATED"]
            assert [sorted(b.items()) for b in group[0]["bundles"].values()] == [
                sorted(bundle.resources.items()) for bundle in algo.plan.layout.bundles
            ]
            results = trained(algo)
        finally:
            algo.stop()
        assert all(g["state"] == "REMOVED" for g in placement_group_table().values())
        wait_for_gpus(sum(gpus))

    assert [r["engines"]["explorer"] for r in results] == explorers
    assert [r["engines"]["learner"] for r in results] == learners
    for key in ("digest", "prompts", "explorer_per_group", "weight_version", "reward"):
        assert [r[key] for r in results] == [r[key] for r in run.records], key
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["evaluation"]["after"]["correct"] == run.summary["evaluation"]["after"]["correct"]
    moved = [(h["step"], h["engines_after"]) for h in summary["hand_overs"]]
    assert moved == ([] if mode == "colocated" else [(4, {"explorer": 0, "learner": 2})])
    said = [line for line in notes.notes if not line.startswith(("computing in", "your code runs here"))]
    assert [line for line in said if line.startswith("hand-over before step 4")] == said
    assert len(said) == len(moved)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["fits"] and plan["mode"] == mode and plan["ranks"] == 1


@pytest.mark.long
def test_adaptive_schedule_and_dynamic_sampling_go_on_where_they_stopped(family, tmp_path: Path):
    def config(name: str, **more):
        overrides = run_config(family, tmp_path / name) | {
            "schedule.kind": "adaptive",
            "schedule.adapt_every": 1,
            "schedule.adapt_below": 0.3,
            "schedule.mix_steps": 6,
            "rollout.group_size": 3,
            "rollout.refill_rounds": 2,
            "checkpoint.keep": 3,
            "data.eval": None,
            "tracking.enabled": False,
        }
        return load_config(QUICKSTART, overrides | more)

    algo = S2LPO(config("whole"))
    try:
        whole = trained(algo)
        checkpoint = next((tmp_path / "whole" / "checkpoints").glob("step-*4"))
        assert algo.reset(config("resumed", resume=str(checkpoint)).model_dump(mode="json"))
        resumed = trained(algo)
    finally:
        algo.stop()
    # Windows of one step; the explorer samples all until something is known of step 1, where nothing was compared.
    counts = [r["explorer_per_group"] for r in whole]
    assert counts[:3] == [3, 3, 2] and counts[5] == 0
    for step in (4, 5):
        only, compared = whole[step - 3]["explorer_only"]
        assert counts[step - 1] == counts[step - 2] - (compared == 0 or only / compared < 0.3)
    # Groups of three, of which about half are right: some have no variance and were replaced by others.
    assert sum(r["refilled_groups"] for r in whole) > 0
    planned = [algo.config["rollout"]["prompts_per_step"]] * 6
    assert [len(set(r["prompts"])) for r in whole] == [r["groups"] for r in whole] == planned
    # What is left without variance was so in both rounds, and each round sampled one more group for each of them.
    assert all(r["refilled_groups"] >= 2 * r["zero_variance_groups"] for r in whole)

    assert [r["step"] for r in resumed] == [1, 2, 3, 4, 5, 6] and resumed[:4] == whole[:4]
    # In another directory; and what it leaves there is whole, so that a third one could go on from it.
    (kept,) = (tmp_path / "resumed" / "checkpoints").glob("step-*6")
    for log in (tmp_path / "resumed" / "steps.jsonl", kept / "steps.jsonl"):
        assert [r.step for r in StepLog(log).read()] == [1, 2, 3, 4, 5, 6]
    for key in ("digest", "prompts", "explorer_per_group", "refilled_groups", "explorer_only", "alpha"):
        assert [r[key] for r in resumed] == [r[key] for r in whole], key
