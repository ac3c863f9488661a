"""The wheel: built without a network, unpacked elsewhere, and used with no checkout in sight."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import s2l_ray
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what it is made of: a build leaves its folders beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for part in ("s2l_ray", "actors", "configs", "cluster"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source / part)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, source], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def s2l(installed: Path, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the wheel's package, in a directory that has nothing of the checkout."""
    environment = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "s2l_ray", *words],
        check=False,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_wheel_has_the_version_the_types_and_the_shipped_files(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.split("-")[1] == s2l_ray.__version__
    assert {"s2l_ray/py.typed", "actors/py.typed", "s2l_ray/miniature/family/train.jsonl"} <= set(names)
    shipped = {name.removeprefix("s2l_ray/shipped/") for name in names if name.startswith("s2l_ray/shipped/")}
    sources = {"configs": ROOT / "configs", "inventories": ROOT / "cluster" / "inventories"}
    assert shipped == {
        f"{kind}/{file.relative_to(folder)}" for kind, folder in sources.items() for file in folder.rglob("*.yaml")
    }
    assert not [name for name in names if re.match(r"(tests|docs|configs|cluster|requirements)/", name)]


def test_a_plan_by_names(installed: Path, tmp_path: Path):
    done = s2l(installed, tmp_path, "plan", "paper/qwen3_1.7b_to_8b", "--inventory", "8xH100")
    assert done.returncode == 0, done.stderr
    assert "paper/qwen3_1.7b_to_8b on 1 node of 8 x H100-80GB" in done.stdout


def test_training_by_name_finds_the_embedded_family(installed: Path, tmp_path: Path):
    """As far as its first check that needs no engine: the models and the data are read, a prompt is too long."""
    done = s2l(installed, tmp_path, "train", "quickstart", "data.max_prompt_tokens=1")
    assert done.returncode == 1
    assert "max_prompt_tokens" in done.stderr and "Traceback" not in done.stderr


def test_an_own_file_extends_a_shipped_one(installed: Path, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("extends: quickstart\nseed: 5\nname: mine\n")
    done = s2l(installed, tmp_path, "config", "--diff", "quickstart", "mine.yaml")
    assert [line.split() for line in done.stdout.splitlines()] == [["name", "quickstart", "mine"], ["seed", "1", "5"]]
