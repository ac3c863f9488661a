"""trainer.flash_attention: 3 is torch's own registration of the package's kernels, and an error where it cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s2l_ray.errors import ConfigError
from s2l_ray.training.flash_attention import MODULE, problem_with_version_3, use_flash_attention
from tests.support.paths import ROOT

GPU = torch.device("cuda")
KERNELS = """
import torch

library = torch.library.Library("flash_attn_3", "DEF")
library.define("fwd(Tensor q) -> Tensor")
{more}
"""
PROGRAM = """
import torch
from torch.nn import attention
from s2l_ray.errors import ConfigError
from s2l_ray.training.flash_attention import use_flash_attention

torch.cuda.get_device_capability = lambda device: (9, 0)
try:
    use_flash_attention(3, torch.device("cuda"))
    print(attention.current_flash_attention_impl())
    use_flash_attention(2, torch.device("cuda"))
    print(attention.current_flash_attention_impl())
except ConfigError as error:
    print(error)
"""


def gpu_of(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")


def with_package(directory: Path, text: str) -> list[str]:
    """What `PROGRAM` prints where the package's module is `text`, in a process with a registry of its own."""
    (directory / f"{MODULE}.py").write_text(text)
    environment = {"PYTHONPATH": f"{directory}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_on_cpus_it_is_refused_and_version_2_changes_nothing() -> None:
    message = (
        r"^trainer.flash_attention: 3 needs a GPU of compute capability 9.0 \(H100, H200\), and the trainer computes "
        "on the CPU; use 2, which comes with torch$"
    )
    with pytest.raises(ConfigError, match=message):
        use_flash_attention(3, torch.device("cpu"))
    use_flash_attention(2, torch.device("cpu"))
    assert torch.nn.attention.current_flash_attention_impl() is None


@pytest.mark.parametrize(
    ("capability", "problem"),
    [((8, 0), "NVIDIA A100 has 8.0"), ((10, 0), "NVIDIA A100 has 10.0"), ((9, 0), "which is not installed")],
)
def test_other_gpus_and_a_missing_package_are_named(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], problem: str
) -> None:
    gpu_of(monkeypatch, capability)
    assert str(problem_with_version_3(GPU)).endswith(problem)


def test_it_is_switched_on_and_off(tmp_path: Path) -> None:
    kernels = KERNELS.format(more='library.define("bwd(Tensor q) -> Tensor")')
    assert with_package(tmp_path, kernels) == ["FA3", "None"]


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        ("", "does not expose FA3 forward kernels"),
        (KERNELS.format(more=""), "does not expose FA3 backward kernels"),  # of the packages for inference alone
        ("raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol: _ZN3c10"),
    ],
)
def test_a_package_that_does_not_go_with_this_torch_is_named(tmp_path: Path, package: str, reason: str) -> None:
    (line,) = with_package(tmp_path, package)
    assert line.startswith(f"trainer.flash_attention: 3 cannot use the module {MODULE} that is installed (")
    assert reason in line
