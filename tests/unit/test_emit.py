"""`s2l plan --emit`: a manifest says what the plan says, and reads back as the nodes it was made for."""

import yaml

from s2l_ray.cluster.infra import Infra
from s2l_ray.cluster.manifest import manifest
from s2l_ray.cluster.node_groups import by_kind
from s2l_ray.config import load_config
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.search import make_plan

TRIAL = [{"count": 2, "gpus": 0, "cpus": 2, "memory_gb": 8}]
EIGHT_H100 = [{"gpus": 8, "gpu": "H100-80GB", "cpus": 192, "memory_gb": 2000}]


def emitted(nodes, kind="rayjob", infra=None, config="quickstart", overrides=("trainer.ranks=2",)):
    inventory = by_kind(Inventory.of(nodes))
    settings = load_config(config, list(overrides))
    return manifest(kind, settings, inventory, make_plan(settings, inventory), infra or Infra())


def objects(text: str) -> dict[str, dict]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_the_worker_group_of_the_trial_is_two_pods_of_two_cpus_and_8_gb():
    job = objects(emitted(TRIAL))["RayJob"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    container = group["template"]["spec"]["containers"][0]
    assert [group[key] for key in ("groupName", "replicas", "minReplicas", "maxReplicas")] == ["cpu-2", 2, 2, 2]
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"cpu": "2", "memory": "8G"}


def test_rollouts_prefetched_and_of_two_steps_fit_into_the_object_store_and_that_into_shm():
    # 1 GiB prefetched, twice 32 prompts x 8 rollouts x 20 tokens x 16 bytes, 256 MB for the rest; in whole MB.
    group = objects(emitted(TRIAL))["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert group["rayStartParams"] == {"object-store-memory": "1329000000"}
    shm = next(v for v in group["template"]["spec"]["volumes"] if v["name"] == "shared-mem")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1579M"}
