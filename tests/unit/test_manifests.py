"""Every Kubernetes object that the project ships or renders passes the checks; nothing is sent to a Kubernetes."""

from __future__ import annotations

import re

import pytest

from tests.support.kubernetes.builds import CLUSTER, complete, emitted, kustomizations, kustomized, locked
from tests.support.kubernetes.checks import joint_problems, object_problems
from tests.support.kubernetes.claims import sharing_problems
from tests.support.kubernetes.core_schemas import is_custom
from tests.support.kubernetes.custom_schemas import definitions
from tests.support.kubernetes.definitions import DEFINITIONS, needs_definitions
from tests.support.kubernetes.flows import flow_problems, unbound_problems
from tests.support.kubernetes.objects import Object, Problem, get
from tests.support.kubernetes.pods import pods
from tests.support.kubernetes.references import policy_problems
from tests.support.paths import ROOT

RAY = locked("ray")
OPERATOR_NAMESPACES = ("kuberay-system",)
DEFINED = DEFINITIONS if DEFINITIONS.is_dir() else None
"""Without them the objects of KubeRay and Kueue are checked by everything but their own schemas."""

GUIDE = (ROOT / "docs" / "guides" / "kuberay.md").read_text(encoding="utf-8")
SECRETS = tuple(
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "s2l"}, "data": {key: ""}}
    for name, key in re.findall(r"kubectl create secret generic (\S+) --from-file=(\w+)=", GUIDE)
)
"""What the guide tells to make by hand."""
PLACEHOLDER = frozenset({"StorageClass/shared"})
"""The guide tells to put the name of one's own there."""

FOLDERS = kustomizations()
MODELS = ("models.learner=HuggingFaceTB/SmolLM2-360M", "models.explorer=HuggingFaceTB/SmolLM2-135M")
OVERRIDES = {
    "quickstart": (),
    "gsm8k_smollm2": (*MODELS, "data.train=/data/train.jsonl"),
    "paper/qwen3_1.7b_to_8b": ("data.train=/data/train.parquet",),
    "paper/qwen3_4b_to_14b": ("data.train=/data/train.parquet",),
}
TOO_SMALL = {("paper/qwen3_1.7b_to_8b", "8x24GB"), ("paper/qwen3_4b_to_14b", "8x24GB")}
PLANNED = [
    (config, inventory)
    for config in OVERRIDES
    for inventory in ("8x24GB", "8xH100", "2x8xH100")
    if (config, inventory) not in TOO_SMALL
]
INFRA = """
namespace: s2l
service_account: s2l
claims: {outputs: s2l-outputs, models: s2l-models, data: s2l-data}
mlflow_uri: http://s2l-mlflow:5000
"""


def beside(folder: str = "") -> list[tuple[Object, ...]]:
    """What a build finds in its namespace, or brings along: what is made once, and its own part of that."""
    applied = ["storage", "base", "staging", f"{folder}/storage", f"{folder}/stage"]
    return [SECRETS, *(kustomized(other) for other in applied if other in FOLDERS)]


def shown(problems: list[Problem]) -> list[str]:
    """Problems as text, each once."""
    return list(dict.fromkeys(map(str, problems)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_object_of_a_folder_would_be_accepted(folder: str):
    found = [problem for obj in kustomized(folder) for problem in object_problems(obj, DEFINED, RAY)]
    assert shown(found) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_all_that_a_folder_names_is_there(folder: str):
    build = complete(kustomized(folder), *beside(folder))
    nodes = 1 if folder == "storage-one-node" else 2
    assert shown([*joint_problems(build, PLACEHOLDER), *sharing_problems(build, nodes)]) == []


@pytest.mark.parametrize(
    "folder", [folder for folder in FOLDERS if folder.startswith(("base", "overlays", "shell", "staging"))]
)
def test_pods_of_a_folder_talk_to_whom_they_must_and_to_nobody_else(folder: str):
    build = complete(kustomized(folder), *beside(folder))
    assert shown([*flow_problems(build, OPERATOR_NAMESPACES), *unbound_problems(build)]) == []


def test_every_network_policy_is_for_some_pod():
    everything = complete((), *(kustomized(folder) for folder in FOLDERS))
    assert shown(policy_problems(everything)) == []


@pytest.mark.parametrize("folder", ["storage", "storage-one-node"])
def test_the_namespace_enforces_restricted_pods(folder: str):
    namespace = next(obj for obj in kustomized(folder) if obj["kind"] == "Namespace")
    assert get(namespace, "metadata", "labels", "pod-security.kubernetes.io/enforce") == "restricted"


def test_images_are_labelled_with_the_ray_of_the_lock():
    for name in ("cpu", "cuda"):
        text = (CLUSTER / "images" / f"{name}.Dockerfile").read_text(encoding="utf-8")
        assert re.findall(r"^ARG RAY_VERSION=(\S+)$", text, re.MULTILINE) == [RAY], name
        assert "LABEL io.ray.version=${RAY_VERSION}" in text


@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
@pytest.mark.parametrize(("config", "inventory"), PLANNED)
def test_a_plan_becomes_objects_that_would_be_accepted(config: str, inventory: str, kind: str, tmp_path):
    infra = tmp_path / "infra.yaml"
    infra.write_text(INFRA, encoding="utf-8")
    objects = emitted(kind, config, inventory, str(infra), *OVERRIDES[config])
    build = complete(objects, *beside())
    found = [problem for obj in objects for problem in object_problems(obj, DEFINED, RAY)]
    assert shown([*found, *joint_problems(build, PLACEHOLDER)]) == []
    assert shown(flow_problems(build, OPERATOR_NAMESPACES)) == []
    assert {pod.role for obj in objects for pod in pods(obj)} == {"head", "worker"}  # HTTPMode: no submitter


@needs_definitions
def test_every_custom_kind_of_ours_has_a_definition():
    everything = [obj for folder in FOLDERS for obj in kustomized(folder) if is_custom(obj)]
    assert {(obj["apiVersion"], obj["kind"]) for obj in everything} <= definitions(DEFINITIONS).keys()


def test_a_plan_alone_names_one_claim_and_one_secret_of_the_user():
    given = frozenset({"PersistentVolumeClaim/s2l-outputs", "Secret/s2l-ray-token"})
    objects = emitted("rayjob", "quickstart", "8xH100", None)
    found = [problem for obj in objects for problem in object_problems(obj, DEFINED, RAY)]
    assert shown([*found, *joint_problems(list(objects), given)]) == []
