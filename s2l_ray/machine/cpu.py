"""Whether the CPU of this machine computes bfloat16 natively, or has to emulate it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
NATIVE = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
"""CPU flag in /proc/cpuinfo -> common name, of the units that torch and vLLM compute bfloat16 products with."""
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
"""CPU flag -> common name, of vector units, widest first."""
ONEDNN_WITHOUT = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA with which oneDNN does not use the units in `NATIVE`."""
ATEN_WITHOUT = ("default", "avx2")
"""Values of ATEN_CPU_CAPABILITY with which torch does not use them."""


@dataclass(frozen=True)
class Cpu:
    """What decides how fast a CPU computes bfloat16."""

    name: str
    """Such as "AMD EPYC 7B13"."""
    architecture: str
    """The kernel's name for it: x86_64, aarch64, arm64."""
    vectors: str
    """The widest vector unit, "AVX-512" or "AVX2"; empty where neither is there."""
    bfloat16: tuple[str, ...]
    """Units that multiply bfloat16, such as ("AVX512-BF16",); empty: bfloat16 is emulated."""
    limit: str = ""
    """The environment variable that switches the units in `bfloat16` off, as "NAME=value"; empty: none does."""

    @property
    def native(self) -> bool:
        """Whether bfloat16 is computed natively."""
        return bool(self.bfloat16) and not self.limit

    def describe(self) -> str:
        """Such as "AMD EPYC 7B13 (AVX2, no bfloat16 unit)"."""
        parts = [self.vectors or self.architecture, *(self.bfloat16 or ["no bfloat16 unit"])]
        return f"{self.name} ({', '.join(parts)}{f'; limited by {self.limit}' if self.limit else ''})"


@cache
def this_cpu() -> Cpu:
    """The CPU of the machine that this process runs on."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else ""
    return read_cpu(text, platform.machine(), os.environ)


def read_cpu(cpuinfo: str, machine: str, environment: Mapping[str, str]) -> Cpu:
    """Read what a CPU can do.

    Only x86 units count: torch and vLLM have no native bfloat16 path on other CPUs that we have measured.

    Args:
        cpuinfo: text of /proc/cpuinfo; "" where there is none.
        machine: architecture, as platform.machine() has it.
        environment: with the variables that limit torch and oneDNN, if any.
    """
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    native = tuple(NATIVE[flag] for flag in NATIVE if flag in flags)
    vectors = next((name for flag, name in VECTORS.items() if flag in flags), "")
    name = fields.get("model name") or platform.processor() or machine
    return Cpu(name, machine, vectors, native, _limit(environment) if native else "")


def _limit(environment: Mapping[str, str]) -> str:
    for name, without in (
        ("ONEDNN_MAX_CPU_ISA", ONEDNN_WITHOUT),
        ("DNNL_MAX_CPU_ISA", ONEDNN_WITHOUT),
        ("ATEN_CPU_CAPABILITY", ATEN_WITHOUT),
    ):
        if (value := environment.get(name)) and value in without:
            return f"{name}={value}"
    return ""
