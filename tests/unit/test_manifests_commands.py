"""Commands in shipped manifests are commands: of Ray, MLflow, bash and s2l, with options that exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.kubernetes.builds import CLUSTER, kustomizations, kustomized, printed
from tests.support.kubernetes.objects import Object, get, mapping, rows, title
from tests.support.kubernetes.pods import Pod, cluster_spec, pods
from tests.support.kubernetes.ray_cluster_rules import ray_groups

OVERLAYS = [folder for folder in kustomizations() if folder.startswith("overlays")]
RENDERED = re.compile(r"^#\s+(s2l plan .*--emit \w+) > (\S+)$", re.MULTILINE)
OF_RAY = re.compile(r"^kind: Ray(Job|Cluster)$", re.MULTILINE)


def shipped() -> dict[str, Object]:
    """The objects of all folders, by their title."""
    return {title(obj): obj for folder in kustomizations() for obj in kustomized(folder)}


def rendered() -> list[tuple[str, str]]:
    """Commands that overlays say they were made with, and the file that each made."""
    texts = [(CLUSTER / folder / "kustomization.yaml").read_text(encoding="utf-8") for folder in OVERLAYS]
    return [(found[1], found[2]) for text in texts for found in RENDERED.finditer(text)]


@pytest.mark.parametrize(("command", "file"), rendered(), ids=[file for _, file in rendered()])
def test_a_rendered_file_is_what_its_command_prints(command: str, file: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(CLUSTER.parent)
    assert printed(shlex.split(command)[1:]) == Path(file).read_text(encoding="utf-8"), (
        f"do it again: {command} > {file}"
    )


def test_every_rendered_file_says_how_it_was_made():
    files = [path for path in CLUSTER.glob("overlays/**/*.yaml") if OF_RAY.search(path.read_text(encoding="utf-8"))]
    assert {str(path.relative_to(CLUSTER.parent)) for path in files} == {file for _, file in rendered()}


def test_ray_can_be_started_with_what_manifests_say():
    from ray.scripts.scripts import start

    checked = 0
    for obj in shipped().values():
        for _, group in ray_groups((cluster_spec(obj) or ("", {}))[1]) if cluster_spec(obj) else ():
            parameters = [f"--{key}={value}" for key, value in mapping(group, "rayStartParams").items()]
            start.make_context("ray start", parameters)  # raises for what it does not know
            checked += 1
    assert checked >= 2 * len(rendered())  # a head and a worker group each


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
