"""One S2LPO that is reset to one run after another, as Tune does with the actor of a trial; its engines start once.

What a reset run computes is held against the undisturbed run, whose actors were all new.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from s2l_ray import S2LPO, load_config
from s2l_ray.config import Config
from s2l_ray.errors import ModelError
from s2l_ray.miniature.build import Family
from s2l_ray.run.directory import RunDirectory
from s2l_ray.tracking.mlflow_store import locate
from tests.support.notes import Notes
from tests.support.run_settings import run_config
from tests.support.undisturbed import QUICKSTART, Undisturbed

OTHER = {
    "seed": 7,
    "name": "another",
    "schedule.kind": "cosine",
    "schedule.steps": 9,
    "schedule.mix_steps": 2,
    "schedule.start": 0.75,
    "rollout.prompts_per_step": 4,
    "objective.loss": "gspo",
    "objective.kl": 0.1,
    "trainer.learning_rate": 3e-3,
    "trainer.lr_schedule": "linear",
    "evaluation.every": 1,
}


def test_a_reset_run_is_a_fresh_one_to_the_token_and_the_bit(run: Undisturbed, family: Family, tmp_path: Path):
    def config(directory: str, **overrides: object) -> Config:
        return load_config(QUICKSTART, run_config(family, tmp_path / directory) | overrides)

    def reset(settings: Config) -> None:
        before = actors_of(algo)
        assert algo.reset(settings.model_dump(mode="json")) and algo.iteration == 0
        assert actors_of(algo) == before

    reporter = Notes()
    algo = S2LPO(config("another", **OTHER), reporter)
    try:
        for _ in range(2):
            algo.train()

        reset(config("run"))
        for step in range(3):  # 4, 3 and 2 rollouts of the explorer's in each group of 4
            algo.train()
            assert told_by(algo) == told(run, step)
        assert status_of(tmp_path / "another") == "KILLED" and status_of(tmp_path / "run") == "RUNNING"
        RunDirectory.acquire(config("another")).close()  # nobody holds it

        reset(config("again", **OTHER))  # back to its beginning, from version 3 to version 0
        algo.train()
        reset(config("exploit"))
        algo.restore(str(run.config.run_path / "checkpoints" / "step-000004"))
        for step in (4, 5):
            algo.train()
            assert told_by(algo) == told(run, step)
        model = [Path(path) / "model" / "model.safetensors" for path in (algo.settings.run_dir, run.config.run_path)]
        assert model[0].read_bytes() == model[1].read_bytes()
        assert not [note for note in reporter.notes if "started anew" in note]

        with pytest.raises(ModelError, match=r"models\.learner"):
            algo.reset(config("nowhere", **{"models.learner": "/nowhere"}).model_dump(mode="json"))
        assert not ray.is_initialized() and status_of(tmp_path / "exploit") == "FINISHED"
        RunDirectory.acquire(config("nowhere")).close()
    finally:
        algo.stop()


def actors_of(algo: S2LPO) -> list[object]:
    graph = algo.run.graph
    engines = [engine.actor for engine in graph._workers.all_engines]
    return [*graph.trainer.ranks, *graph._workers.verifiers.values(), *engines]


def status_of(run_dir: Path) -> str:
    run_id = json.loads((run_dir / "run.json").read_text())["mlflow_run_id"]
    return MlflowClient(locate(None, run_dir.parent)[0]).get_run(run_id).info.status


def told_by(algo: S2LPO) -> tuple[str, dict[str, float]]:
    record = algo.run.records[-1].to_json()
    return record["digest"], record["trainer"]


def told(run: Undisturbed, step: int) -> tuple[str, dict[str, float]]:
    return run.records[step]["digest"], run.records[step]["trainer"]
