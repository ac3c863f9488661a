"""Where only torch and transformers are installed the trainer's tests run, and so does s2l_ray.gpu_check."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

ABSENT = ("ray", "vllm", "pydantic", "omegaconf", "mlflow")
HIDE = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
"""Python's own way to say that a package is not there: importing it raises ModuleNotFoundError."""
TRAINER_TESTS = [
    *(f"tests/unit/test_{name}.py" for name in ("advantages", "lora", "objective", "optimizer", "packing")),
    *(f"tests/engines/test_{name}.py" for name in ("trainer", "trainer_ranks", "weighting")),
]
STAGES = [f"s2l_ray.gpu_check.stage_{name}" for name in ("machine", "attention", "update", "memory", "mfu")]
Bare = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    """Runs Python without those packages, in its own processes too."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    root = str(ROOT)
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), root))}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=280, env=env, cwd=root)

    return run


def test_the_packages_are_hidden(bare: Bare) -> None:
    result = bare("-c", f"import importlib.util; print(*[importlib.util.find_spec(name) for name in {ABSENT}])")
    assert result.stdout.split() == ["None"] * len(ABSENT), result.stderr
    assert "ModuleNotFoundError" in bare("-c", "import pydantic").stderr


def test_the_trainers_tests_run(bare: Bare) -> None:
    """All of their files are imported; among those that run one updates a trainer, one starts ranks of their own."""
    some = "test_objective or ratio_of_a_single_mini_batch or test_weighting and (not every_option or token_correction)"
    result = bare("-m", "pytest", "-v", "-p", "no:cacheprovider", *TRAINER_TESTS, "-k", some)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("unit/test_objective.py", "engines/test_trainer.py", "engines/test_weighting.py"):
        assert re.search(rf"{name}::.* PASSED", result.stdout), result.stdout


def test_the_gpu_check_runs(bare: Bare, tmp_path: Path) -> None:
    imported = bare("-c", f"import {', '.join(STAGES)}")
    assert imported.returncode == 0, imported.stderr
    report = tmp_path / "report.json"
    result = bare("-m", "s2l_ray.gpu_check", "--stages", "machine", "attention", "--json", str(report))
    assert result.returncode == 0, result.stdout + result.stderr
    stages = json.loads(report.read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["machine", "attention"]
    for stage in stages:
        assert stage["status"] == "PASS" or stage["reason"].startswith("no CUDA device; ")
    errors = stages[1]["measured"]["16/8 heads of 128, lengths [1, 5, 64, 131, 300], float32"]
    assert set(errors) == {"output", "gradient by query", "gradient by key", "gradient by value"}


def test_sections_are_the_same(bare: Bare) -> None:
    """Fields, defaults, rules and unknown names, as with pydantic."""
    from s2l_ray.config import ObjectiveConfig, TrainerConfig

    code = """
import json
from s2l_ray.config import ObjectiveConfig, TrainerConfig
from dataclasses import asdict
made = ObjectiveConfig(correction={"explorer": "token"}), TrainerConfig(lora_targets=("q_proj",)).model_copy(
    update={"threads": 3})
refused = 0
for section, wrong in ((TrainerConfig, {"lr_min_ratio": 0.5}), (ObjectiveConfig, {"pass_k": 2})):
    try:
        section(**wrong)
    except ValueError:
        refused += 1
try:
    TrainerConfig(thread=1)
except TypeError:
    refused += 1
print(json.dumps([*map(asdict, made), refused]))
"""
    result = bare("-c", code)
    assert result.returncode == 0, result.stderr
    made = ObjectiveConfig(correction={"explorer": "token"}), TrainerConfig(lora_targets=("q_proj",), threads=3)
    assert json.loads(result.stdout) == [*(section.model_dump(mode="json") for section in made), 3]
