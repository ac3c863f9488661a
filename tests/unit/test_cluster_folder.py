"""`cluster/` agrees with itself: manifests with the commands that make them, images with locks, the guide with both."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.version import VERSION
from tests.support.documents import blocks
from tests.support.kubernetes.builds import kubectl, kustomizations, kustomized
from tests.support.kubernetes.objects import Object, parsed
from tests.support.kubernetes.pods import pods
from tests.support.paths import ROOT

CLUSTER = ROOT / "cluster"
GUIDE = ROOT / "docs" / "guides" / "kuberay.md"
IMAGES = sorted((CLUSTER / "images").glob("*.Dockerfile"))
BUILT_FOR_CUDA = {"apache-tvm-ffi", "torch"}
"""Packages whose versions differ between the CPU and the CUDA environment."""


def commands() -> list[str]:
    """The `s2l plan ... > FILE` of every kustomization that says how its manifest is made."""
    files = sorted((CLUSTER / "overlays").glob("*/kustomization.yaml"))
    return [line for file in files for line in re.findall(r"^#   (s2l plan .*)$", file.read_text(), re.MULTILINE)]


def locked(name: str) -> dict[str, str]:
    """Versions by normalised name."""
    lines = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split(";")[0].strip().split("==") for line in lines if line and not line.startswith("#")]
    return {normalised(package): version for package, version in pins}


def normalised(package: str) -> str:
    """A package's name as package indices compare it."""
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.mark.parametrize("command", [pytest.param(line, id=Path(line).parent.name) for line in commands()])
def test_a_committed_manifest_is_what_its_command_prints(command: str, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    *words, arrow, file = shlex.split(command)
    assert arrow == ">"
    assert main(words[1:]) == 0
    assert capsys.readouterr().out == Path(file).read_text(encoding="utf-8")


def test_every_manifest_has_a_command_and_every_infra_file_a_manifest():
    made = {shlex.split(line)[-1] for line in commands()}
    emitted = {str(path.relative_to(ROOT)) for path in CLUSTER.rglob("ray*.yaml")}
    assert made == emitted != set()
    used = {words[words.index("--infra") + 1] for words in map(shlex.split, commands())}
    assert used == {str(path.relative_to(ROOT)) for path in (CLUSTER / "infra").iterdir()}


@pytest.mark.parametrize("name", ["cuda", "mlflow"])
def test_locks_have_the_versions_of_the_cpu_lock(name: str):
    cpu, other = locked("cpu"), locked(name)
    shared = cpu.keys() & other.keys()
    assert len(shared) > 80
    assert {package for package in shared if cpu[package] != other[package]} <= BUILT_FOR_CUDA


def test_the_cuda_lock_pins_what_the_project_requires():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = locked("cuda")
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["cuda"]]:
        name, _, version = re.sub(r"\[.*\]", "", requirement).partition("==")
        package = normalised(name)
        assert pins[package] == (version or pins[package])


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in IMAGES])
def test_an_image_is_pinned_not_root_and_made_of_what_dockerignore_lets_in(path: Path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^ARG BASE=docker\.io/\S+:\d+\.\d+\.\d+-\S+$", text, re.MULTILINE)
    assert re.findall(r"^(?:FROM|USER) (\S+)$", text, re.MULTILINE) == ["${BASE}", "1000:1000"]
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    sources = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) for pattern in let_in), source


def images_of(objects: Iterable[Object]) -> set[str]:
    return {container["image"] for obj in objects for pod in pods(obj) for _, container in pod.containers()}


@pytest.fixture(scope="module")
def images() -> dict[str, set[str]]:
    return {folder: images_of(kustomized(folder)) for folder in kustomizations()}


def test_images_have_the_versions_of_the_package_and_of_the_lock(images: dict[str, set[str]]):
    ours = {image for found in images.values() for image in found if image.startswith("s2l-ray")}
    wanted = {f"s2l-ray:{VERSION}-cpu", f"s2l-ray:{VERSION}-cuda", f"s2l-ray-mlflow:{locked('cpu')['mlflow']}"}
    assert ours == wanted
    built = {tag for path in IMAGES for tag in re.findall(r"^#   docker build .* -t (\S+) \.$", path.read_text(), re.M)}
    guide = set(re.findall(r"^docker build .* -t (\S+) \.", GUIDE.read_text(), re.MULTILINE))
    assert built == guide == wanted


def test_one_file_names_the_registry_of_every_pod(images: dict[str, set[str]], tmp_path: Path):
    copy = tmp_path / "cluster"
    shutil.copytree(CLUSTER, copy)
    place = copy / "registry" / "kustomization.yaml"
    text = place.read_text()
    place.write_text(text.replace("newName: ", "newName: registry.example/team/"))
    for folder, found in images.items():
        moved = {image if "/" in image else f"registry.example/team/{image}" for image in found}
        done = subprocess.run([kubectl(), "kustomize", copy / folder], capture_output=True, text=True, timeout=60)
        assert images_of(parsed(done.stdout)) == moved, done.stderr or folder


def secrets_in(value: object) -> set[tuple[str, str]]:
    """Name and key of the Secrets that a manifest names."""
    found = set()
    if isinstance(value, dict):
        if source := value.get("secretKeyRef"):
            found.add((source["name"], source["key"]))
        if value.get("mode") == "token":
            found.add((value["secretName"], "auth_token"))
        value = list(value.values())
    if isinstance(value, list):
        found |= {secret for part in value for secret in secrets_in(part)}
    return found


def test_the_guide_makes_every_secret_and_applies_every_folder():
    shown = "\n".join(block.text for block in blocks(GUIDE))
    made = set(re.findall(r"create secret generic (\S+) --from-file=(\w+)=/dev/stdin", shown))
    named = {
        secret
        for path in CLUSTER.rglob("*.yaml")
        for document in yaml.safe_load_all(path.read_text())
        for secret in secrets_in(document)
    }
    assert named == made | {("s2l-hugging-face", "token")}  # the last is optional, and said in the text
    assert "`s2l-hugging-face`" in GUIDE.read_text()
    for folder in re.findall(r"apply -k cluster/(\S+)", shown):
        assert folder in kustomizations()


def test_no_two_runs_share_a_directory():
    places = []
    for path in sorted(CLUSTER.rglob("rayjob.yaml")):
        (run,) = [obj for obj in parsed(path.read_text()) if obj["kind"] == "ConfigMap"]
        places.append(yaml.safe_load(run["data"]["config.yaml"])["run_dir"])
    assert len(set(places)) == len(places) == 5
