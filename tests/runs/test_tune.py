"""Runs as trials of a real Tuner, on a Ray node that was started elsewhere, with relative paths everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs
import pytest
import ray
from ray import tune
from ray.cluster_utils import Cluster

from s2l_ray import S2LPO
from s2l_ray.config import load_config, parse_config
from s2l_ray.miniature.build import Family
from s2l_ray.ray_bridge import on_loopback
from s2l_ray.trials.trial import with_own_directory
from tests.support.paths import ROOT
from tests.support.run_settings import run_config

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
REWARD = "def is_even(response, answer, question):\n    first = response.split(' ')[0]\n    return first.isdigit()\n"


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """A node with four logical CPUs, started from this directory, not from where the Tuner is."""
    with on_loopback():
        size = {"num_cpus": 4, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, connect=False, head_node_args=size)
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.fixture
def launched(node: str, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """Started in tmp_path/project, which has models, data and a reward of its own: the param space of a Tuner."""
    project = tmp_path / "project"
    shutil.copytree(family.large.parent, project / "family")
    (project / "own_reward.py").write_text(REWARD)
    monkeypatch.chdir(project)
    with on_loopback():
        ray.init(address=node, log_to_driver=False, configure_logging=False)
    relative = {
        "models.learner": "family/large",
        "models.explorer": "family/small",
        "data.train": f"family/{family.train.name}",
        "data.eval": None,
        "verifier.kind": "own_reward:is_even",
        "bank.path": "recorded",
        "bank.mode": "write",
        "schedule.steps": 1,
        "schedule.mix_steps": 1,
        "trainer.cpus": 0.5,
        "run_dir": None,
    }
    try:
        yield load_config(QUICKSTART, run_config(family, tmp_path) | relative).model_dump(mode="json")
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def fit(space: dict, storage: Path) -> tune.ResultGrid:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    tuner = tune.Tuner(
        tune.with_resources(S2LPO, {"cpu": 0.01}),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(storage), name="sweep", verbose=0),
    )
    return tuner.fit()


def test_relative_paths_of_a_tuner_mean_where_it_was_started(launched: dict, tmp_path: Path):
    results = fit(launched, tmp_path / "results")
    assert not results.errors, results.errors
    trial = Path(results[0].path)
    assert results[0].metrics["done"] and results[0].metrics["step"] == 1
    summary = json.loads((trial / "summary.json").read_text())
    assert summary["run_dir"] == str(trial)
    assert (trial / "model" / "config.json").is_file()
    assert load_config(trial / "config.yaml").models.learner == str(tmp_path / "project" / "family" / "large")
    assert list((tmp_path / "project" / "recorded").glob("*")), "the bank"
    assert not (tmp_path / "project" / "outputs").exists()
    assert runs_in(tmp_path / "results" / "sweep" / "mlflow.db") == 1


def test_trials_that_share_a_run_dir_have_directories_of_their_own_in_it(launched: dict, tmp_path: Path):
    """They end before an engine starts, by a setting that is for plans alone, and after everything else was checked."""
    launched["placement"]["tensor_parallel_across_nodes"] = True
    results = fit(launched | {"run_dir": "sweep", "seed": tune.grid_search([-1, 2])}, tmp_path / "results")
    assert len(results.errors) == 2
    assert all("such a plan cannot be run" in str(error) for error in results.errors)
    shared = tmp_path / "project" / "sweep"
    trials = sorted(path.parent for path in shared.glob("*/config.yaml"))
    assert [path.name for path in trials] == sorted(Path(result.path).name for result in results)
    assert {load_config(path / "config.yaml").seed for path in trials} == {-1, 2}
    assert runs_in(shared / "mlflow.db") == 2


def runs_in(store: Path) -> int:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return connection.execute("select count(*) from runs").fetchone()[0]


@pytest.mark.parametrize(
    ("run_dir", "local", "expected"),
    [
        (None, True, "/results/sweep/S2LPO_1"),
        (None, False, "outputs/mine/S2LPO_1"),
        ("sweep", True, "sweep/S2LPO_1"),
        ("/sweep", False, "/sweep/S2LPO_1"),
    ],
)
def test_a_trials_directory(run_dir: str | None, local: bool, expected: str):
    values = {"name": "mine", "run_dir": run_dir, "models": {"learner": "l", "explorer": "e"}, "data": {"train": "t"}}
    files = pyarrow.fs.LocalFileSystem() if local else pyarrow.fs.SubTreeFileSystem("/", pyarrow.fs.LocalFileSystem())
    storage = SimpleNamespace(
        storage_filesystem=files, trial_fs_path="/results/sweep/S2LPO_1", trial_dir_name="S2LPO_1"
    )
    assert with_own_directory(parse_config(values), storage).run_dir == str(Path(expected).absolute())
