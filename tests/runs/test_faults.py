"""One run of which one process after the other is killed; the groups are those of the run that nothing disturbs.

`make chaos` does the same many times, with every kind of fault at every point of a step.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray import load_config
from s2l_ray.errors import ActorLostError
from s2l_ray.miniature.build import Family
from s2l_ray.run.checkpoints import checkpoints_in
from s2l_ray.run.training_run import TrainingRun
from tests.chaos.saboteur import Fault, Saboteur
from tests.support.run_settings import run_config
from tests.support.undisturbed import QUICKSTART, Undisturbed

FAULTS = [
    Fault(2, "rollout", "explorer", "SIGKILL", 0.0, 0),
    Fault(2, "rollout", "verifier", "exit", 0.0, 0),
    Fault(3, "update", "trainer", "SIGKILL", 0.0, 0),
    Fault(4, "rollout", "scheduler", "SIGKILL", 0.0, 0),
    Fault(5, "weight_sync", "learner", "SIGKILL", 0.0, 0),
    Fault(6, "rollout", "verifier", "exit", 0.0, 0),
]


def test_a_run_whose_processes_die_trains_on_the_same_groups_until_one_dies_too_often(
    run: Undisturbed, family: Family, tmp_path: Path
):
    changes = {"recovery.heartbeat_s": 0.5, "recovery.max_restarts": 1, "tracking.enabled": False}
    saboteur = Saboteur(FAULTS)
    config = load_config(QUICKSTART, run_config(family, tmp_path / "run") | changes)
    with TrainingRun(config, saboteur) as training:
        saboteur.run = training
        with pytest.raises(ActorLostError) as error:
            while True:
                training.step()
        saboteur.join()
        records = training.records
    # The verifier's second death is one more than the budget allows.
    assert "verifier 0 is gone after 1 restarts within 3600 s" in str(error.value)
    assert [outcome.done for outcome in saboteur.outcomes] == [True] * len(FAULTS)
    assert [record.digest for record in records] == [record["digest"] for record in run.records[: len(records)]]
    assert sum(record.pipeline.restarts for record in records) >= 4
    for name in ("explorer engine 0", "verifier 0", "the trainer", "the scheduler", "learner engine 0"):
        assert [note for note in saboteur.notes if note.startswith(name) and "started again" in note], name
    assert "Its log " in str(error.value)
    assert checkpoints_in(tmp_path / "run")[-1][0] == len(records) // 2 * 2  # one of every second step, as configured
