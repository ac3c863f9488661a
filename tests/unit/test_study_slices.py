"""How many trials of a study run at the same time, worked out by hand."""

from __future__ import annotations

import pytest

from s2l_ray.config import PlacementConfig, load_config
from s2l_ray.errors import PlacementError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.run.planning import part_planned_for
from s2l_ray.tuning.slices import described, number_at_once, reworded, sliced
from s2l_ray.tuning.study_file import StudyFile

CLUSTER = Inventory.of(
    [
        {"count": 5, "gpus": 8, "gpu": "H100-80GB", "cpus": 64},
        {"count": 2, "gpus": 0, "cpus": 10},
        {"count": 1, "gpus": 0, "cpus": 3},
    ]
)


@pytest.mark.parametrize(
    ("placement", "trials", "at_once"),
    [
        ({}, 8, 1),  # the whole cluster
        ({"nodes": 1}, 8, 5),
        ({"nodes": 2}, 8, 2),  # one of the five is left over
        ({"nodes": 2}, 1, 1),
        ({"cpus": 4}, 8, 4),  # two on each node of 10 CPUs; the nodes with GPUs are not for this
        ({"cpus": 3}, 8, 7),
        ({"cpus": 20}, 80, 15),  # only those with GPUs are large enough: three on each of five
    ],
)
def test_as_many_trials_run_as_the_cluster_has_parts(placement: dict[str, float], trials: int, at_once: int) -> None:
    assert number_at_once(CLUSTER, PlacementConfig.model_validate(placement), trials) == at_once


def test_a_part_larger_than_the_cluster_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        PlacementError,
        match=r"^nodes_per_trial is 6, but .* alike: the cluster has 5 nodes of 8 x H100-80GB",
    ):
        number_at_once(CLUSTER, PlacementConfig(nodes=6), 8)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("cpus_per_trial", "or lower engines.learner.count or trainer.cpus in the study's config"),
        ("nodes_per_trial", "or lower engines.*.count or trainer.ranks in the study's config"),
    ],
)
def test_a_trial_without_room_names_the_studys_key(key: str, words: str) -> None:
    file = StudyFile.model_validate({"space": {"seed": [1, 2]}, key: 1})
    config = sliced(load_config("quickstart"), file)
    with pytest.raises(PlacementError) as refused:
        raise PlacementError("; ".join(["no placement: too large", *part_planned_for(config.placement)]))
    said = reworded(str(refused.value), file)
    assert said.startswith(f"no placement: too large; each trial has no more than {key}: 1. Raise it, {words}")
    assert "placement." not in said


def test_one_cpu_is_singular() -> None:
    one = Inventory.of([{"count": 1, "gpus": 0, "cpus": 1}])
    file = StudyFile.model_validate({"space": {"seed": [1, 2]}, "cpus_per_trial": 1})
    assert described(1, 2, one, file) == "2 trials, one trial at a time: each has 1 CPU, of 1 node of 1 CPU"
    assert Inventory.of([{"count": 2, "gpus": 0, "cpus": 0.5}]).describe() == "2 nodes of 0.5 CPUs"


def test_it_is_said_how_many_run_and_what_each_has() -> None:
    file = StudyFile.model_validate({"space": {"seed": [1, 2]}, "nodes_per_trial": 2})
    assert described(2, 8, CLUSTER, file).startswith(
        "8 trials, 2 trials at a time: each has 2 nodes, of 5 nodes of 8 x"
    )
    file = StudyFile.model_validate({"space": {"seed": [1, 2]}})
    assert "one trial at a time: each has the whole cluster" in described(1, 8, CLUSTER, file)
