"""Runs as trials of a real Tuner, on a Ray node that was started elsewhere, with relative paths everywhere."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray._private import state
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from s2l_ray import S2LPO, load_config
from s2l_ray.errors import ActorLostError, ConfigError, PlacementError
from s2l_ray.miniature.build import Family
from s2l_ray.ray_bridge import on_loopback
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.run_settings import run_config

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
REWARD = "def is_even(response, answer, question):\n    first = response.split(' ')[0]\n    return first.isdigit()\n"
CPUS = 4

# The workers' Python path has the directory that a Tuner was made in, and these tests make one elsewhere.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """A node with four logical CPUs, started from this directory, not from where the Tuner is."""
    with on_loopback():
        size = {"num_cpus": CPUS, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, connect=False, head_node_args=size)
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.fixture
def space(node: str, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """The param space of a Tuner in tmp_path/project, which has models, data and a reward of its own."""
    project = tmp_path / "project"
    shutil.copytree(family.large.parent, project / "family")
    (project / "own_reward.py").write_text(REWARD)
    monkeypatch.chdir(project)
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    with on_loopback():
        ray.init(address=node, log_to_driver=False, configure_logging=False)
    changes = {
        "models.learner": "family/large",
        "models.explorer": "family/small",
        "data.train": f"family/{family.train.name}",
        "data.eval": f"family/{family.heldout.name}",
        "verifier.kind": "own_reward:is_even",
        "schedule.kind": "off",
        "schedule.steps": 4,
        "evaluation.samples": 1,
        "evaluation.k": [1],
        "trainer.cpus": 0.5,
        "placement.cpus": CPUS / 2,
        "run_dir": None,
        "recovery.max_restarts": 0,
    }
    try:
        yield load_config(QUICKSTART, run_config(family, tmp_path) | changes).model_dump(mode="json")
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


class AtOnce(tune.Callback):
    """The most trials that had resources at one time."""

    most = 0

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        states = [group["state"] for group in placement_group_table().values()]
        self.most = max(self.most, states.count("CREATED"))


class Unlucky(S2LPO):
    """Loses its trainer in step 1 if its seed is 13."""

    def step(self) -> dict[str, Any]:
        if self.settings.seed == 13:
            ray.kill(self.run.graph.trainer.ranks[0])
        return super().step()


def fit(space: dict, storage: Path, *callbacks: tune.Callback, **stop: int) -> tune.ResultGrid:
    config = tune.RunConfig(
        storage_path=str(storage), name="sweep", verbose=0, stop=stop or None, callbacks=list(callbacks)
    )
    return tune.Tuner(Unlucky, param_space=space, run_config=config).fit()


def test_two_trials_at_once_of_which_one_is_stopped_and_one_fails_leave_nothing(space: dict, tmp_path: Path):
    at_once = AtOnce()
    results = fit(space | {"seed": tune.grid_search([1, 13])}, tmp_path / "results", at_once, step=2)
    until(lambda: ray.available_resources().get("CPU") == CPUS)
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    assert {actor["State"] for actor in state.actors().values()} == {"DEAD"}
    assert at_once.most == 2

    stopped, failed = results
    assert isinstance(failed.error, ActorLostError), repr(failed.error)
    assert "training_run.py" not in str(failed.error)
    assert stopped.error is None
    told, trial = stopped.metrics, Path(stopped.path)
    assert (told["step"], told["training_iteration"], told["eval/learner/step"]) == (2, 2, 0)
    assert 0 <= told["eval/learner/pass_at_1"] <= 1 and told["engines/explorer"] == 0
    assert told["run_dir"] == str(trial) and len((trial / "steps.jsonl").read_text().splitlines()) == 2
    written = load_config(trial / "config.yaml")
    assert written.models.learner == str(tmp_path / "project" / "family" / "large")
    assert not (tmp_path / "project" / "outputs").exists()
    names = {written.name, load_config(Path(failed.path) / "config.yaml").name}
    assert len(names) == 2 and names_of_runs(tmp_path / "results" / "sweep" / "mlflow.db") == names


def names_of_runs(store: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return {name for (name,) in connection.execute("select name from runs")}


def test_what_cannot_be_planned_is_one_error_before_anything_starts(space: dict, tmp_path: Path):
    space["placement"] |= {"cpus": None, "nodes": tune.grid_search([1, 2])}
    with pytest.raises(PlacementError, match="placement.nodes is 2, .* the cluster has 1 node of 4 CPUs") as caught:
        fit(space, tmp_path / "results")
    assert caught.value.__cause__ is None and not list((tmp_path / "results").rglob("config.yaml"))
    space["placement"]["nodes"] = None
    space["rollout"]["group_size"] = 0
    with pytest.raises(ConfigError, match="rollout.group_size"):
        fit(space, tmp_path / "results")
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}
