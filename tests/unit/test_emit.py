"""`s2l plan --emit`: a manifest says what the plan says, and nothing of the machine that it was made on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.cluster.carried import path_in_pod
from s2l_ray.cluster.infra import Infra, load_infra
from s2l_ray.cluster.manifest import manifest
from s2l_ray.cluster.names import job_name
from s2l_ray.cluster.node_groups import by_kind, default_store
from s2l_ray.cluster.pods import environment
from s2l_ray.cluster.yaml_text import commented
from s2l_ray.config import load_config
from s2l_ray.config.reference import differences
from s2l_ray.config.shipped import CONFIGURATIONS
from s2l_ray.errors import ConfigError, PlacementError
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.search import make_plan
from tests.support.kubernetes.checks import object_problems
from tests.support.kubernetes.definitions import DEFINITIONS
from tests.support.paths import ROOT

TRIAL = [{"count": 2, "gpus": 0, "cpus": 2, "memory_gb": 8}]
H100 = {"gpus": 8, "gpu": "H100-80GB", "cpus": 192, "memory_gb": 2000}
PAPER = ("paper/qwen3_1.7b_to_8b", ("data.train=/data/dapo.parquet",))
QUICKSTART = ("quickstart", ("trainer.ranks=2",))
EVERYTHING = {
    "name": "a-run",
    "namespace": "team",
    "image": "registry.example/s2l-ray:1",
    "image_pull_secrets": ["registry"],
    "service_account": "runs",
    "annotations": {"team.example/owner": "me"},
    "labels": {"team.example/project": "s2l"},
    "queue": "training",
    "claims": {"models": "s2l-models", "data": "s2l-data"},
    "mlflow_uri": "http://mlflow:5000",
    "environment": {"NCCL_IB_HCA": "mlx5"},
    "secrets": {"HF_TOKEN": "hugging-face/token"},
    "workers": {
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "priority_class": "high",
        "runtime_class": "nvidia",
        "groups": {"gpu-8-h100-80gb": {"extra_resources": {"rdma/hca_shared": 1}, "shm_gb": 64}},
    },
}


def emitted(nodes, infra=None, run=QUICKSTART, kind="rayjob") -> str:
    config, inventory = load_config(run[0], list(run[1])), by_kind(Inventory.of(nodes))
    return manifest(kind, config, inventory, make_plan(config, inventory), Infra.model_validate(infra or {}))


def objects(text: str) -> dict[str, dict]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def cluster_of(text: str) -> dict:
    found = objects(text)
    return found["RayJob"]["spec"]["rayClusterSpec"] if "RayJob" in found else found["RayCluster"]["spec"]


def container_of(group: dict) -> dict:
    (container,) = group["template"]["spec"]["containers"]
    return container


def volume(group: dict, name: str) -> dict:
    return next(v for v in group["template"]["spec"]["volumes"] if v["name"] == name)


# ---- from plan to pods ----------------------------------------------------------------------------------------------


def test_two_nodes_of_two_cpus_are_a_worker_group_of_two_pods():
    (group,) = cluster_of(emitted(TRIAL))["workerGroupSpecs"]
    assert [group[key] for key in ("groupName", "replicas", "minReplicas", "maxReplicas")] == ["cpu-2", 2, 2, 2]
    resources = container_of(group)["resources"]
    assert resources["limits"] == resources["requests"] == {"cpu": "2", "memory": "8G"}
    assert container_of(group)["image"] == "s2l-ray:0.1.0-cpu"


def test_gpus_are_extended_resources_and_need_the_cuda_image():
    (group,) = cluster_of(emitted([H100 | {"memory_gb": 1999.5}], {"claims": {"data": "d"}}, PAPER))["workerGroupSpecs"]
    assert group["groupName"] == "gpu-8-h100-80gb"
    assert container_of(group)["resources"]["limits"] == {"cpu": "192", "memory": "1999500M", "nvidia.com/gpu": "8"}
    assert container_of(group)["image"] == "s2l-ray:0.1.0-cuda"
    assert "num-gpus" not in group["rayStartParams"]  # the operator counts the limit


def test_logical_gpus_are_counted_by_ray_alone():
    nodes = [{"gpus": 3, "gpu": "logical", "cpus": 3, "memory_gb": 16}]
    (group,) = cluster_of(emitted(nodes, run=("quickstart", ())))["workerGroupSpecs"]
    assert group["rayStartParams"]["num-gpus"] == "3"
    assert container_of(group)["resources"]["limits"] == {"cpu": "3", "memory": "16G"}


def test_rollouts_that_a_run_keeps_fit_into_the_object_store_and_that_into_shm():
    # 1 GiB prefetched, 2 + 20 times 32 prompts x 8 rollouts x 20 tokens x 16 bytes, 256 MB for the rest; in whole MB.
    (group,) = cluster_of(emitted(TRIAL))["workerGroupSpecs"]
    assert group["rayStartParams"] == {"object-store-memory": "1331000000", "num-gpus": "0"}
    assert volume(group, "shared-mem")["emptyDir"] == {"medium": "Memory", "sizeLimit": "1581M"}
    assert default_store(load_config("quickstart"), 4 * 10**9) == 1_200_000_000  # at most 30% of the memory
    # A trainer that goes on from its state after the latest step needs no rollouts of steps before.
    assert default_store(load_config("quickstart", ["recovery.snapshots=memory"]), 8 * 10**9) == 1_329_000_000


def test_equal_nodes_are_one_group_wherever_they_stand_and_kinds_are_groups():
    big = {"gpus": 0, "cpus": 4, "memory_gb": 16}
    other = {"gpus": 0, "cpus": 4, "memory_gb": 32}
    groups = cluster_of(emitted([TRIAL[0], big, TRIAL[0], other]))["workerGroupSpecs"]
    assert [(g["groupName"], g["replicas"]) for g in groups] == [("cpu-2", 4), ("cpu-4", 1), ("cpu-4-x2", 1)]


def test_the_head_holds_no_planned_actor():
    head = cluster_of(emitted(TRIAL, {"head": {"cpus": 3, "memory_gb": 4}}))["headGroupSpec"]
    assert head["rayStartParams"] == {
        "dashboard-host": "0.0.0.0",
        "num-cpus": "0",
        "num-gpus": "0",
        "object-store-memory": "1000000000",
    }
    assert container_of(head)["resources"]["limits"] == {"cpu": "3", "memory": "4G"}


def test_the_job_is_submitted_over_http_retried_and_ended():
    spec = objects(emitted(TRIAL, {"stop_grace_s": 45, "job": {"ttl_s": 5}}))["RayJob"]["spec"]
    assert {key: value for key, value in spec.items() if key != "rayClusterSpec"} == {
        "submissionMode": "HTTPMode",
        "entrypoint": "s2l train /etc/s2l-ray/config.yaml",
        "runtimeEnvYAML": 'env_vars: {RAY_JOB_STOP_WAIT_TIME_S: "45"}\n',
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 5,
        "activeDeadlineSeconds": 604800,
        "backoffLimit": 2,
    }
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "s2l-ray-token"}
    lock = (ROOT / "requirements" / "cpu.lock").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in lock
    for group, role in ((cluster["headGroupSpec"], "head"), (cluster["workerGroupSpecs"][0], "worker")):
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] == 75
        hook = container_of(group)["lifecycle"]["preStop"]["exec"]["command"]
        assert hook == ["python", "-m", "s2l_ray.cluster.pre_stop", role, "45"]


def test_the_entrypoint_survives_bash_unquoted():
    spec = objects(emitted(TRIAL, run=("quickstart", ("trainer.ranks=2", "name=a $(b) && c"))))["RayJob"]["spec"]
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {spec['entrypoint']}"], capture_output=True, text=True)
    assert said.stdout.splitlines() == spec["entrypoint"].split() == ["s2l", "train", "/etc/s2l-ray/config.yaml"]


@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
def test_all_that_an_infra_file_may_say_is_accepted_by_kubernetes_and_the_operator(kind: str):
    definitions = DEFINITIONS if DEFINITIONS.is_dir() else None
    found = objects(emitted([H100], EVERYTHING, PAPER, kind))
    problems = [p for obj in found.values() for p in object_problems(obj, definitions, "2.60.0")]
    assert [str(problem) for problem in problems] == []
    assert len(found) == 2


def test_what_the_infra_file_says_is_in_the_pods():
    found = objects(emitted([H100], EVERYTHING, PAPER))
    job = found["RayJob"]
    assert (job["metadata"]["name"], found["ConfigMap"]["metadata"]["name"]) == ("a-run", "a-run-run")
    assert {obj["metadata"]["namespace"] for obj in found.values()} == {"team"}
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert job["metadata"]["annotations"] == {"team.example/owner": "me"}
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod, container = group["template"]["spec"], container_of(group)
    assert group["template"]["metadata"]["labels"]["team.example/project"] == "s2l"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert [pod[key] for key in ("nodeSelector", "imagePullSecrets", "serviceAccountName")] == [
        {"pool": "gpu"},
        [{"name": "registry"}],
        "runs",
    ]
    assert [pod[key] for key in ("priorityClassName", "runtimeClassName")] == ["high", "nvidia"]
    assert container["resources"]["requests"]["rdma/hca_shared"] == "1"
    assert volume(group, "shared-mem")["emptyDir"]["sizeLimit"] == "64G"
    assert volume(group, "data")["persistentVolumeClaim"] == {"claimName": "s2l-data", "readOnly": True}
    variables = {entry["name"]: entry for entry in container["env"]}
    assert variables["HF_HOME"]["value"] == "/models/huggingface"
    assert variables["MLFLOW_TRACKING_URI"]["value"] == "http://mlflow:5000"
    assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hugging-face", "key": "token"}}
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert not head["automountServiceAccountToken"] and not pod["automountServiceAccountToken"]
    assert "tolerations" not in head and "priorityClassName" not in head


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("qwen3_1.7b_to_8b", "qwen3-1-7b-to-8b"),
        ("Grüße an ALLE!", "gr-e-an-alle"),
        ("2nd try", "s2l-2nd-try"),
        ("---", "s2l"),
        ("x" * 47, "x" * 47),
    ],
)
def test_a_jobs_name_is_the_runs_as_far_as_kubernetes_takes_it(run: str, name: str):
    assert job_name(run) == name


def test_long_names_that_begin_alike_stay_apart():
    names = {job_name("a" * 46 + "-" + ending) for ending in ("x" * 10, "y" * 10)}
    assert len(names) == 2 and {len(name) for name in names} == {47}


# ---- what travels with the job --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGURATIONS.paths())
def test_the_carried_configuration_is_the_runs_in_the_places_of_a_pod(name: str, tmp_path: Path):
    overrides = [] if name == "quickstart" else ["data.train=/data/train.parquet"]
    overrides += ["models.learner=Qwen/Qwen3-8B-Base", "models.explorer=Qwen/Qwen3-1.7B-Base", "cluster.address=auto"]
    run = (name, tuple(overrides))
    text = emitted([H100], {"claims": {"data": "d"}}, run)
    found = objects(text)
    file = tmp_path / "config.yaml"
    file.write_text(found["ConfigMap"]["data"]["config.yaml"])
    given = load_config(name, overrides)
    changed = {difference.name for difference in differences(given, load_config(file))}
    assert changed == {"run_dir", "bank.path", "placement.inventory", "cluster.address"}
    assert load_config(file).run_dir == f"/outputs/{given.name}"
    assert str(ROOT) not in file.read_text()  # embedded:train.jsonl stays a name
    assert "  config.yaml: |\n    name: " in text  # a block, for people


def test_a_prompt_that_looks_like_a_manifest_travels_as_it_is(tmp_path: Path):
    prompt = "image: none\nreplicas:\n\n  {question} ${a}\tünd # so\n"
    config, inventory = load_config("quickstart", {"data.prompt": prompt}), Inventory.of(TRIAL)
    text = manifest("rayjob", config, inventory, make_plan(config, inventory), Infra())
    (tmp_path / "config.yaml").write_text(objects(text)["ConfigMap"]["data"]["config.yaml"])
    assert load_config(tmp_path / "config.yaml").data.prompt == prompt


def test_the_carried_nodes_are_fixed():
    carried = yaml.safe_load(objects(emitted(TRIAL))["ConfigMap"]["data"]["inventory.yaml"])
    assert carried == {"nodes": TRIAL, "fixed": True}


@pytest.mark.parametrize(
    ("key", "path", "there"),
    [
        ("run_dir", "outputs/a", "/outputs/a"),
        ("bank.path", "s3://bucket/bank", "s3://bucket/bank"),
        ("models.learner", "Qwen/Qwen3-8B-Base@main", "Qwen/Qwen3-8B-Base@main"),
        ("models.learner", "/models/mine", "/models/mine"),
        ("data.eval", "/data", "/data"),
        ("data.eval", "/data/held-out", "/data/held-out"),
    ],
)
def test_paths_are_those_of_pods(key: str, path: str, there: str):
    assert path_in_pod(key, path, Infra.model_validate({"claims": {"models": "m", "data": "d"}})) == there


@pytest.mark.parametrize("path", ["/home/me/data.jsonl", "data/a.jsonl", "/data/a.jsonl"])
def test_a_path_that_pods_do_not_have_is_refused(path: str):
    with pytest.raises(ConfigError, match=r"data.train: .* is no path in the pods, which have /outputs \(claims"):
        path_in_pod("data.train", path, Infra())


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:hidden@mlflow:5000", "has a password; give MLFLOW_TRACKING_PASSWORD"),
        ("http://token@mlflow:5000", "has a password; give"),
        ("postgresql://db/x?password=hidden", "has a password; give"),
        ("postgresql://me:hid/den@db/x", "has a password; give"),
        ("http://[::1", "is no URI"),
        ("http://localhost:5000", "localhost is another machine in every pod"),
        ("sqlite:////home/me/mlflow.db", "the file is in no claim; give sqlite:////outputs/mlflow.db"),
        ("file:///home/me/mlruns", "the file is in no claim"),
    ],
)
def test_an_mlflow_that_pods_do_not_reach_or_a_password_is_refused(uri: str, said: str):
    for infra, overrides in (({"mlflow_uri": uri}, ()), ({}, (f"tracking.uri={uri}",))):
        with pytest.raises(ConfigError) as error:
            emitted(TRIAL, infra, ("quickstart", ("trainer.ranks=2", *overrides)))
        assert said in str(error.value) and "hidden" not in str(error.value)


def test_mlflow_is_where_the_infra_file_says_else_where_the_run_says():
    run = ("quickstart", ("trainer.ranks=2", "tracking.uri=sqlite:////outputs/mlflow.db"))
    for infra, uri in (({}, "sqlite:////outputs/mlflow.db"), ({"mlflow_uri": "http://mlflow:5000"}, None)):
        data = objects(emitted(TRIAL, infra, run))["ConfigMap"]["data"]
        assert yaml.safe_load(data["config.yaml"]).get("tracking", {}).get("uri") == uri


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_memory_is_shared_with_the_object_store():
    # Engines take about 3.4 GB of a node's 8, and Ray itself 0.5.
    assert emitted(TRIAL, {"workers": {"object_store_gb": 3}})
    with pytest.raises(
        PlacementError, match=r"cpu-2: 8.0 GB of memory are less than .* object store 6.0, Ray itself 0.5"
    ):
        emitted(TRIAL, {"workers": {"object_store_gb": 6}})


@pytest.mark.parametrize(
    ("nodes", "infra", "said"),
    [
        ([{"gpus": 0, "cpus": 3.5, "memory_gb": 8}], {}, "give its nodes whole cpus"),
        (TRIAL, {"workers": {"object_store_gb": 2, "shm_gb": 1}}, r"shm_gb \(1\) is less than the object store \(2 GB"),
        (TRIAL, {"workers": {"shm_gb": 8}}, "leaves nothing of 8 GB"),
    ],
)
def test_pods_that_cannot_be_are_refused(nodes, infra, said: str):
    with pytest.raises(PlacementError, match=said):
        emitted(nodes, infra)


def test_a_worker_group_that_the_plan_has_not_is_named():
    with pytest.raises(ConfigError, match="workers.groups.gpu: there is no such worker group; the plan has cpu-2"):
        emitted(TRIAL, {"workers": {"groups": {"gpu": {}}}})


def test_what_only_a_job_has_is_refused_for_a_cluster_that_stays():
    with pytest.raises(ConfigError, match="job: is for --emit rayjob"):
        emitted(TRIAL, {"job": {"ttl_s": 1}}, kind="raycluster")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imgae: a", "imgae: unknown key; did you mean 'image'?"),
        (
            "workers: {groups: {cpu-2: {tolerations: [{kye: a}]}}}",
            "tolerations.0.kye: unknown key; did you mean 'key'?",
        ),
        ("workers: {groups: {cpu-2: {shm: 1}}}", "workers.groups.cpu-2.shm: unknown key; did you mean 'shm_gb'?"),
        ("head: {gpus: 1}", "head.gpus: unknown key; did you mean 'cpus'?"),
        ("environment: {HF_TOKEN: abc}", "environment.HF_TOKEN looks like a secret"),
        ("secrets: {HF_TOKEN: abc}", "secrets.HF_TOKEN must be SECRET/KEY"),
        ("{environment: {A: b}, secrets: {A: b/c}}", "A is in environment and in secrets"),
        ("name: My_Run", "name: 'My_Run' is no name for it"),
        ("claims: {outputs: Not A Name}", "claims.outputs: 'Not A Name' is no name of a Kubernetes object"),
        ("stop_grace_s: 0", "stop_grace_s: must be greater than 0"),
        ("- a", "must be a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_the_infra_file_is_named(text: str, said: str, tmp_path: Path):
    file = tmp_path / "infra.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_infra(file)
    assert said in str(error.value)


# ---- the command ----------------------------------------------------------------------------------------------------


def plan(*words: str) -> int:
    return main(["plan", "quickstart", *words])


def test_what_does_not_fit_emits_nothing(tmp_path: Path, capsys):
    (tmp_path / "nodes.yaml").write_text("nodes: [{gpus: 0, cpus: 1, memory_gb: 8}]")
    assert plan("--inventory", str(tmp_path / "nodes.yaml"), "--emit", "rayjob") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "nothing is emitted, since the plan does not fit: " in said.err


def test_nodes_that_hold_nothing_are_said_beside_the_manifest(tmp_path: Path, capsys):
    nodes = [{"count": 3, "gpus": 0, "cpus": 2, "memory_gb": 8}]
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump({"nodes": nodes}))
    assert plan("trainer.ranks=2", "--inventory", str(tmp_path / "nodes.yaml"), "--emit", "rayjob") == 0
    said = capsys.readouterr()
    assert said.out == emitted(nodes)
    assert said.err == "1 of 3 nodes hold no actor; a smaller inventory would do\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--emit", "rayjob", "--json"], "--json shows a plan and --emit prints a manifest"),
        (["--infra", "a.yaml"], "--infra is for --emit"),
        (["--emit", "rayjob", "--infra", "missing.yaml"], "infra file missing.yaml cannot be read"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], said: str, capsys):
    assert plan("--inventory", "8xH100", *words) == 1
    assert said in capsys.readouterr().err


def test_the_command_prints_the_manifest_without_ray_or_torch(tmp_path: Path):
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump({"nodes": TRIAL}))
    words = ["plan", "quickstart", "trainer.ranks=2", "--inventory", "nodes.yaml", "--emit", "rayjob"]
    text = f"import sys; from s2l_ray.cli import main; main({words}); assert not {{'ray', 'torch'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == emitted(TRIAL)


@pytest.mark.parametrize(
    "text", ["line\nimage: mine\nreplicas: 2\n", "\nspec: |\n  x\n", "a\x85b", "\u2028", "'\"$(X) \t"]
)
def test_what_somebody_writes_stays_as_it_is(text: str):
    found = objects(emitted(TRIAL, {"environment": {"FOO": text}, "annotations": {"x/y": text}}))["RayJob"]
    assert found["metadata"]["annotations"]["x/y"] == text
    variables = found["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "FOO", "value": text} in variables


def test_comments_stand_beside_keys_also_after_a_block():
    text = "a: |\n  image: x\n\n  image: y\nb:\n  - image: z\n"
    assert commented(text, {"image": "c"}) == "a: |\n  image: x\n\n  image: y\nb:\n  # c\n  - image: z\n"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"environment": {"A B": "x"}}, "environment.A B: 'A B' is no name of an environment variable"),
        ({"environment": {"HTTP_PROXY": "http://me:pw@proxy"}}, "environment.HTTP_PROXY looks like a secret"),
        ({"secrets": {"A": "-/key"}}, "secrets.A must be SECRET/KEY"),
        ({"labels": {"a": "x y"}}, "labels.a: 'x y' is no value of a label"),
        ({"annotations": {"a b": "x"}}, "annotations.a b: 'a b' is no name of a label, annotation or resource"),
        ({"image": "a b"}, "image: 'a b' is no name of an image"),
        ({"workers": {"extra_resources": {"cpu": 3}}}, "extra_resources.cpu: 'cpu' is no name of an extended resource"),
        ({"workers": {"tolerations": [{"key": "a b"}]}}, "tolerations.0.key: 'a b' is no name"),
        ({"head": {"memory_gb": float("inf")}}, "head.memory_gb: must be a finite number"),
        ({"workers": {"shm_gb": 1e300}}, "workers.shm_gb: must be less"),
        ({"stop_grace_s": 10**30}, "stop_grace_s: must be a number below 2**63"),
        ("x: !!timestamp 2024-13-45", "is not valid YAML: month must be"),
        ("[" * 2000, "is not valid YAML: it is nested more than 100 levels deep at line 1"),
    ],
)
def test_an_infra_file_that_kubernetes_would_refuse_is_refused(values, said: str, tmp_path: Path):
    path = tmp_path / "infra.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_infra(path)


def test_a_variable_from_a_secret_is_there_once():
    found = environment(Infra.model_validate({"secrets": {"S2L_OUTPUTS": "places/outputs"}}))
    assert [variable["name"] for variable in found].count("S2L_OUTPUTS") == 1
