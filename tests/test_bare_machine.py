"""Where only torch and transformers are installed the trainer's tests run, and so does `python -m s2l_ray.gpu_check`."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABSENT = ("ray", "vllm", "pydantic", "omegaconf", "mlflow", "math_verify")
HIDE = "import sys; sys.modules.update(dict.fromkeys({}))".format(ABSENT)
"""Python's own way to say that a package is not there: importing it raises ModuleNotFoundError."""
TRAINER_TESTS = [
    f"tests/test_{name}.py"
    for name in ("corrections", "estimators", "lora", "objective", "optimizer", "packing", "trainer", "trainer_ranks")
]


def bare(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", f"{HIDE}; {code}"], capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("package", ABSENT)
def test_the_packages_are_hidden(package: str) -> None:
    assert "ModuleNotFoundError" in bare(f"import {package}").stderr


def test_the_trainers_tests_are_collected() -> None:
    result = bare(f"import pytest; raise SystemExit(pytest.main(['--collect-only', '-q', *{TRAINER_TESTS}]))")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not any(name + ":" not in result.stdout for name in TRAINER_TESTS)


def test_a_trainer_updates() -> None:
    result = bare(
        "import pytest; raise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', "
        "'tests/test_trainer.py::test_the_ratio_of_a_single_mini_batch_is_exactly_one', 'tests/test_objective.py']))"
    )
    assert result.returncode == 0, result.stdout + result.stderr
