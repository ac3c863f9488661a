"""Commands in shipped manifests are commands: of Ray, MLflow, bash and s2l, with options that exist."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess

from tests.support.kubernetes.builds import CLUSTER, kustomizations, kustomized
from tests.support.kubernetes.objects import Object, get, mapping, rows, title
from tests.support.kubernetes.pods import Pod, cluster_spec, pods
from tests.support.kubernetes.ray_cluster_rules import ray_groups


def shipped() -> dict[str, Object]:
    """The objects of all folders, by their title."""
    return {title(obj): obj for folder in kustomizations() for obj in kustomized(folder)}


def test_ray_can_be_started_with_what_manifests_say():
    from ray.scripts.scripts import start

    clusters = [found[1] for obj in shipped().values() if (found := cluster_spec(obj))]
    groups = [group for spec in clusters for _, group in ray_groups(spec)]
    assert len(groups) >= 2 * len(clusters) > 0
    for group in groups:
        parameters = [f"--{key}={value}" for key, value in mapping(group, "rayStartParams").items()]
        start.make_context("ray start", parameters)  # raises for what it does not know


def test_mlflow_can_be_started_with_what_manifests_say():
    from mlflow.cli import server

    words = [
        [*rows(container, "command"), *rows(container, "args")]
        for obj in shipped().values()
        for pod in pods(obj)
        for _, container in pod.containers()
    ]
    found = [command[2:] for command in words if command[:2] == ["mlflow", "server"]]
    assert len(found) == 1
    assert server.make_context("mlflow server", found[0]).params["allowed_hosts"]


def test_entrypoints_train_a_configuration_that_is_mounted():
    everything = shipped()
    jobs = [obj for obj in everything.values() if obj["kind"] == "RayJob"]
    assert jobs
    for job in jobs:
        program, command, path = shlex.split(job["spec"]["entrypoint"])
        assert (program, command) == ("s2l", "train")
        folder, _, key = path.rpartition("/")
        head = next(pod for pod in pods(job) if pod.role == "head")
        carried = mounted(head, folder, everything)
        assert key in mapping(carried, "data"), title(job)


def mounted(pod: Pod, folder: str, everything: dict[str, Object]) -> Object:
    """The ConfigMap at a folder of a pod's first container."""
    name = next(row["name"] for row in rows(pod.spec, "containers", 0, "volumeMounts") if row["mountPath"] == folder)
    volume = next(row for row in rows(pod.spec, "volumes") if row["name"] == name)
    return everything[f"ConfigMap/{get(volume, 'configMap', 'name')}"]


def test_hooks_call_modules_of_ours_that_exist():
    hooks = [
        get(container, "lifecycle", "preStop", "exec", "command")
        for obj in shipped().values()
        for pod in pods(obj)
        for _, container in pod.containers()
    ]
    modules = {hook[2] for hook in hooks if hook}
    assert modules and all(importlib.util.find_spec(module) for module in modules)


def test_scripts_are_bash():
    scripts = [path.read_text(encoding="utf-8") for path in CLUSTER.rglob("*.sh")]
    for obj in shipped().values():
        for _, container in [found for pod in pods(obj) for found in pod.containers()]:
            command = [*rows(container, "command"), *rows(container, "args")]
            if command[:1] in (["bash"], ["/bin/bash"]) and len(command) > 2 and command[1].endswith("c"):
                scripts.append(command[2])
    assert scripts
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
