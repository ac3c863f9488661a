"""Runs whose numbers go wrong: a loss without a gradient, and a verifier that pays nothing. Engines start once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from s2l_ray import S2LPO, load_config
from s2l_ray.config import Config
from s2l_ray.errors import HealthError
from s2l_ray.miniature.build import Family
from s2l_ray.run.checkpoints import checkpoints_in
from s2l_ray.step_log import StepLog
from s2l_ray.tracking.mlflow_store import locate
from tests.support.notes import Notes
from tests.support.run_settings import run_config
from tests.support.undisturbed import QUICKSTART


@pytest.mark.long
def test_numbers_that_go_wrong_are_told_or_end_the_run(family: Family, tmp_path: Path):
    def config(directory: str, **overrides: object) -> Config:
        cheap = {"data.eval": None, "checkpoint.every": 20, "health.no_variance_steps": 2}
        return load_config(QUICKSTART, run_config(family, tmp_path / directory) | cheap | overrides)

    reporter = Notes()
    unpaid = config("unpaid", **{"verifier.kind": "tests.support.rewards:nothing"})
    broken = config("broken", **{"objective.loss": "tests.support.losses:breaks", "health.skipped_updates_steps": 2})
    algo = S2LPO(unpaid, reporter)
    try:
        for _ in range(3):
            algo.train()
        (note,) = (note for note in reporter.notes if "no group" in note)
        assert note.startswith(
            "step 2: no group had rewards that differ, so it trained nothing; the mean reward was 0."
        )

        algo.reset(broken.model_dump(mode="json"))
        # Two mini-batches a step: the gradient is NaN from step 3 on.
        with pytest.raises(HealthError, match=r"^step 4: no weight changed: .* as for 2 steps, since step 3; health"):
            while not algo.train()["done"]:
                pass
        records = algo.run.records
    finally:
        algo.stop()
    assert [record.trainer["updates"] for record in records] == [2, 2, 0, 0]
    assert ended(tmp_path / "unpaid") == ("KILLED", {"health/no_variance": 3})
    assert ended(tmp_path / "broken") == ("FAILED", {"health/skipped_updates": 2})
    ((step, checkpoint),) = checkpoints_in(tmp_path / "broken")  # none was due
    assert step == 4 and StepLog(checkpoint / "steps.jsonl").read() == records


def ended(run_dir: Path) -> tuple[str, dict[str, float]]:
    """How the run ended in MLflow, and the conditions that held last."""
    run_id = json.loads((run_dir / "run.json").read_text())["mlflow_run_id"]
    run = MlflowClient(locate(None, run_dir.parent)[0]).get_run(run_id)
    return run.info.status, {k: v for k, v in run.data.metrics.items() if k.startswith("health/") and v}
