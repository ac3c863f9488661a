"""Runs on a Ray cluster of two nodes, one of which is lost: to the token the groups of a run that nothing disturbs."""

from __future__ import annotations

from pathlib import Path

import ray

from actors.batch import StepBatch
from s2l_ray import load_config
from s2l_ray.miniature.build import Family
from s2l_ray.run.training_run import TrainingRun
from s2l_ray.timing import Span
from tests.support.logical_cluster import logical_cluster
from tests.support.notes import Notes
from tests.support.patience import PATIENCE_S, until
from tests.support.run_settings import run_config
from tests.support.undisturbed import QUICKSTART, Undisturbed

# Explorer engines alone fit on the small node, and one has to be there.
CPUS = {"trainer.cpus": 1.5, "engines.learner.cpus": 1.5, "engines.explorer.cpus": 1, "engines.explorer.count": 2}
LARGE, SMALL = 4, 1
NOTICED = {"health_check_period_ms": 1000, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 10}
"""A node that is lost counts as lost after 10 s."""


def test_a_run_goes_on_without_an_explorers_node_and_takes_another_one(
    run: Undisturbed, family: Family, tmp_path: Path
) -> None:
    notes = Notes()
    changes = CPUS | {"recovery.heartbeat_s": 0.5, "recovery.max_restarts": 0, "tracking.enabled": False}
    config = load_config(QUICKSTART, run_config(family, tmp_path / "run") | changes)
    with logical_cluster([0], cpus=LARGE, **NOTICED) as cluster:
        node = cluster.add_node(num_cpus=SMALL)
        with TrainingRun(config, notes) as training:
            training.step()
            cluster.remove_node(node, allow_graceful=False)
            until(lambda: training.graph.apply_phase(2) or training.graph.engines["explorer"] == 1)
            training.step()
            assert training.graph.engines == {"explorer": 1, "learner": 1} and training.graph.explores
            cluster.add_node(num_cpus=SMALL)
            until(lambda: training.graph.apply_phase(3) or training.graph.engines["explorer"] == 2)
            until(lambda: training.graph.apply_phase(3) or _is_back(notes))
            lose_rollouts_before_an_update(training)
            while not training.done:
                training.step()
            records = training.records
    (lost,) = [line for line in notes.notes if "and with it explorer engine" in line]
    assert ": one explorer engine is left. The lost engine is started again once there is a node for it" in lost
    assert [record.digest for record in records] == [record["digest"] for record in run.records]
    assert [record.engines["explorer"] for record in records] == [2, 1, 2, 2, 2, 2]
    # No restart is allowed after a failure, and nothing has failed.
    assert records[2].pipeline.restarts == 1 and sum(record.pipeline.restarts for record in records[3:]) == 0
    assert "rollouts of step 3 have gone with the scheduler, or with a node, and are sampled again" in notes.notes


@ray.remote(num_cpus=0)
class Owner:
    def put(self) -> list[ray.ObjectRef]:
        return [ray.put(bytes(2**20))]


def lose_rollouts_before_an_update(training: TrainingRun) -> None:
    """The next update is given rollouts that are gone, as those of a lost node are."""
    graph = training.graph
    update = graph.update
    owner = Owner.remote()
    (gone,) = ray.get(owner.put.remote(), timeout=PATIENCE_S)
    ray.kill(owner)
    until(lambda: _is_gone(gone))

    def update_after_loss(batch: StepBatch) -> tuple[StepBatch, dict[str, float], list[Span]]:
        graph.update = update  # type: ignore[method-assign]
        first = batch.assignment[0][0][0]
        first.parts[0] = gone
        return update(batch)

    graph.update = update_after_loss  # type: ignore[method-assign]


def _is_gone(ref: ray.ObjectRef) -> bool:
    try:
        ray.get(ref, timeout=PATIENCE_S)
    except ray.exceptions.OwnerDiedError:
        return True
    return False


def _is_back(notes: Notes) -> bool:
    return any(line.startswith("explorer engine") and "is back" in line for line in notes.notes)
