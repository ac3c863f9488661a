"""Nodes of a manifest: read back as the inventory they were made of, and compared with those that a cluster has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from s2l_ray.cluster.infra import Infra
from s2l_ray.cluster.manifest import manifest
from s2l_ray.cluster.node_groups import by_kind
from s2l_ray.config import load_config
from s2l_ray.errors import PlacementError
from s2l_ray.placement.fixed_nodes import differences
from s2l_ray.placement.inventory import Inventory, load_inventory
from s2l_ray.placement.manifest_nodes import amount
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.show.serialise import plan_document

CPU = {"gpus": 0, "cpus": 2, "memory_gb": 8}
H100 = {"gpus": 8, "gpu": "H100-80GB", "cpus": 192, "memory_gb": 2000}
PAPER = ["data.train=/data/a.parquet"]


def written(path: Path, run: str, overrides: list[str], inventory: Inventory, kind: str = "rayjob") -> Path:
    config = load_config(run, overrides)
    infra = Infra.model_validate({"claims": {"data": "d"}})
    file = path / "job.yaml"
    file.write_text(manifest(kind, config, inventory, make_plan(config, inventory), infra))
    return file


@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
@pytest.mark.parametrize(
    ("run", "overrides", "nodes", "efficiency"),
    [
        ("quickstart", ["trainer.ranks=2"], [CPU | {"count": 2}], {}),
        ("quickstart", [], [CPU, CPU | {"cpus": 3}, CPU], {}),
        ("quickstart", [], [{"gpus": 3, "gpu": "logical", "cpus": 3, "memory_gb": 16}], {}),
        ("paper/qwen3_1.7b_to_8b", PAPER, [H100], {"train": 0.4}),
        # Of what is not given here a pod has the defaults; the network's rate is in no pod.
        ("paper/qwen3_1.7b_to_8b", PAPER, [{"count": 2, "gpus": 8, "gpu_memory_gb": 80, "inter_node_gb_s": 12}], {}),
    ],
)
def test_a_manifest_planned_back_gives_the_same_plan(run, overrides, nodes, efficiency, kind: str, tmp_path: Path):
    config, inventory = load_config(run, overrides), by_kind(Inventory.of(nodes, efficiency=efficiency))
    back = load_inventory(written(tmp_path, run, overrides, inventory, kind))
    assert back.specs == inventory.specs and back.efficiency == inventory.efficiency
    assert plan_document(make_plan(config, back)) == plan_document(make_plan(config, inventory))


def test_what_somebody_changed_in_the_worker_groups_is_read(tmp_path: Path):
    file = written(tmp_path, "quickstart", ["trainer.ranks=2"], Inventory.of([CPU | {"count": 2}]))
    text = file.read_text().replace("replicas: 2\n", "replicas: 3\n").replace("memory: 8G", "memory: 6Gi")
    file.write_text(text.replace("cpu: '2'", "cpu: 3500m"))
    (group,) = load_inventory(file).nodes
    assert (group.count, group.cpus, group.memory_gb) == (3, 4, 6.442450944)  # Ray counts 3.5 CPUs as 4


def test_somebody_elses_manifest_says_its_nodes_too(tmp_path: Path):
    limits = {"cpu": 8, "memory": "32Gi"}
    group = {"replicas": 2, "template": {"spec": {"containers": [{"resources": {"limits": limits}}]}}}
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump({"kind": "RayCluster", "spec": {"workerGroupSpecs": [group]}}))
    (node,) = load_inventory(file).nodes
    assert (node.count, node.gpus, node.cpus, node.memory_gb) == (2, 0, 8, 34.359738368)
    limits["nvidia.com/gpu"] = 4
    file.write_text(yaml.safe_dump({"kind": "RayCluster", "spec": {"workerGroupSpecs": [group]}}))
    with pytest.raises(PlacementError, match="gpu_memory_gb is missing"):
        load_inventory(file)
    file.write_text("kind: RayJob\nspec: {entrypoint: s2l train quickstart}\n")
    with pytest.raises(PlacementError, match="no nodes in this manifest: it has no 'rayClusterSpec'"):
        load_inventory(file)


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("4", 4), ("2Ki", 2048), ("1.5G", 1.5e9), ("3Ti", 3 * 2**40), ("7k", 7000)]
)
def test_amounts_are_kubernetes_own(text: str, number: float):
    assert amount(text) == number


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([H100, CPU, CPU], []),
        ([CPU, CPU | {"memory_gb": 8.05}, H100], []),  # in any order, and about as much memory
        ([H100 | {"gpu_memory_gb": 85.5}, CPU, CPU], []),  # a little more than in the data sheet
        ([H100, CPU], ["a node of 2 CPUs, 8 GB is missing"]),
        ([], ["a node of 8 x H100-80GB, 192 CPUs, 2000 GB is missing", "2 times: a node of 2 CPUs, 8 GB is missing"]),
        ([H100, CPU, CPU, CPU], ["a node of 2 CPUs, 8 GB is not in the plan"]),
        ([H100, CPU | {"cpus": 4}, CPU | {"cpus": 4}], ["2 times: a node has 4 CPUs instead of 2"]),
        ([H100, CPU, CPU | {"memory_gb": 4}], ["a node has 4 GB of memory instead of 8"]),
        ([H100 | {"gpus": 4}, CPU, CPU], ["a node has 4 GPUs instead of 8"]),
        ([H100 | {"gpu": "A100-80GB"}, CPU, CPU], ["a node has GPUs of kind A100-80GB instead of H100-80GB"]),
        ([H100 | {"gpu": "logical"}, CPU, CPU], ["a node has GPUs of kind logical instead of H100-80GB"]),
        (  # each beside the one that is most like it
            [CPU | {"memory_gb": 4}, CPU, H100 | {"cpus": 96}],
            ["a node has 96 CPUs instead of 192", "a node has 4 GB of memory instead of 8"],
        ),
        (
            [H100 | {"gpus": 4, "cpus": 96}, CPU, CPU],
            ["a node has 4 GPUs instead of 8 and 96 CPUs instead of 192"],
        ),
    ],
)
def test_what_differs_from_the_planned_nodes_is_named(there, said: list[str]):
    planned = Inventory.of([H100, CPU | {"count": 2}])
    found = Inventory.of(there) if there else Inventory.model_construct(nodes=())
    assert differences(planned, found) == said
