"""Stage 1: what this machine is, which kernels torch has for it, and its ceilings."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import platform
import shutil
import subprocess

import torch

from s2l_ray.gpu_check.check import Check
from s2l_ray.gpu_check.timer import data_sheet_flops, device_seconds, matrix_flops_per_second

PACKAGES = ("torch", "transformers", "triton", "peft", "numpy", "vllm", "ray")
GIB = 2**30
COPIED_BYTES = 2 * GIB
MODEST = 0.5
"""Share of the data sheet's rate below which something is wrong with the card: throttled, or used by others."""


def run(check: Check) -> None:
    """Report versions, memory and kernels, and measure the ceilings of the card."""
    check.measure(python=platform.python_version(), kernel=platform.release(), cpus=len(os.sched_getaffinity(0)))
    check.measure(packages={name: _version(name) for name in PACKAGES})
    check.say(", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    check.measure(memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB)
    check.need_gpu("the machine's versions were listed")
    if shutil.which("nvidia-smi"):
        with check.part("nvidia-smi"):
            _driver(check)
    _device(check)
    with check.part("kernels"):
        _kernels(check)
    with check.part("ceilings"):
        _ceilings(check)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver(check: Check) -> None:
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total,memory.used,clocks.max.sm", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    check.measure(nvidia_smi=answer.stdout.splitlines())
    check.say("driver, memory, in use, clock: " + "; ".join(answer.stdout.splitlines()))


def _device(check: Check) -> None:
    torch.zeros(1, device="cuda")  # the context is there from here on
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    check.measure(
        gpus=torch.cuda.device_count(),
        gpu=properties.name,
        capability=list(torch.cuda.get_device_capability()),
        cuda=torch.version.cuda,
        nccl=".".join(map(str, torch.cuda.nccl.version())),
        multiprocessors=properties.multi_processor_count,
        total_gib=total / GIB,
        free_gib=free / GIB,
        taken_by_others_and_context_gib=(total - free - torch.cuda.memory_reserved()) / GIB,
    )
    check.expect(torch.cuda.is_bf16_supported(), "the GPU computes in bfloat16")


def _kernels(check: Check) -> None:
    attention, switches = torch.nn.attention, torch.backends.cuda
    enabled = {
        name: getattr(switches, f"{name}_sdp_enabled")()
        for name in ("flash", "mem_efficient", "cudnn", "math")
        if hasattr(switches, f"{name}_sdp_enabled")
    }
    varlen = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    check.measure(sdpa_kernels=enabled, varlen_attention=varlen)
    check.expect(varlen, "torch has attention over packed sequences (torch.nn.attention.varlen)")
    if varlen:
        from torch.nn.attention.varlen import varlen_attn

        options = list(inspect.signature(varlen_attn).parameters)
        check.measure(varlen_options=options)
        check.say(f"varlen_attn takes {', '.join(options)}")
    if hasattr(attention, "list_flash_attention_impls"):
        check.measure(other_flash_implementations=", ".join(attention.list_flash_attention_impls()) or "none")


def _ceilings(check: Check) -> None:
    flops = matrix_flops_per_second()
    numbers = torch.randn(COPIED_BYTES // 4, device="cuda")
    target = torch.empty_like(numbers)
    copied = device_seconds(lambda: target.copy_(numbers))
    host = torch.empty(GIB // 4, pin_memory=True)
    to_host = device_seconds(lambda: host.copy_(numbers[: GIB // 4], non_blocking=True))
    check.measure(
        bfloat16_matrix_tflops=flops / 1e12,
        copy_gb_per_s=2 * COPIED_BYTES / copied / 1e9,  # read and written
        to_host_gb_per_s=GIB / to_host / 1e9,
    )
    if (sheet := data_sheet_flops()) is not None:
        check.measure(share_of_data_sheet=flops / sheet)
        check.expect(flops >= MODEST * sheet, f"a matrix product reaches {MODEST:.0%} of the data sheet's rate")
