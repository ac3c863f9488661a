"""`models.dtype: auto`: bfloat16 where the devices of a run compute it natively, else float32; and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from s2l_ray.kinds import Dtype
from s2l_ray.machine.cpu import Cpu, this_cpu
from s2l_ray.placement.gpu_types import FIRST_WITH_BFLOAT16

if TYPE_CHECKING:
    from s2l_ray.config import Config
    from s2l_ray.placement.inventory import Inventory


SLOWDOWN = "4 to 8 times slower than float32"
"""How slow bfloat16 is on a CPU that emulates it, measured on training steps (docs/guides/machines.md)."""


Asked: TypeAlias = Literal["auto"] | Dtype
"""models.dtype."""


@dataclass(frozen=True)
class DtypeChoice:
    """The type in which a run computes, and why."""

    dtype: Dtype
    reason: str
    """Half a sentence: "the GPUs compute it natively"."""
    advice: str | None = None
    """What to change, where the type that was asked for is a bad one for these devices."""

    def describe(self) -> str:
        """Such as "float32: AMD EPYC 7B13 (AVX2, no bfloat16 unit) would emulate bfloat16"."""
        return f"{self.dtype}: {self.reason}"

    def applied_to(self, config: Config) -> Config:
        """The configuration with this type in place of `auto`."""
        return config.model_copy(update={"models": config.models.model_copy(update={"dtype": self.dtype})})


def choose_dtype(
    config: Config, inventory: Inventory, *, begun_with: Dtype | None = None, cpu: Cpu | None = None
) -> DtypeChoice:
    """The type of a run on these nodes.

    Args:
        begun_with: the type that a run which is being resumed began with; `auto` keeps it on any machine.
        cpu: that CPU actors run on; default: this machine's. Ray does not say what its nodes' CPUs are, so nodes
            without GPUs are taken to have the CPU of the machine that asks.
    """
    asked = config.models.dtype
    on_gpus = config.placement.device != "cpu" and any(spec.real_gpus for spec in inventory.specs)
    if asked == "auto" and begun_with:
        return DtypeChoice(begun_with, "the run began with it")
    if on_gpus:
        return _on_gpus(asked, inventory)
    return _on_cpus(asked, cpu or this_cpu())


def _on_gpus(asked: Asked, inventory: Inventory) -> DtypeChoice:
    old = [g for g in inventory.nodes if g.compute_capability and g.compute_capability < FIRST_WITH_BFLOAT16]
    if asked == "auto":
        if not old:
            return DtypeChoice("bfloat16", "the GPUs compute it natively")
        capability = f"compute capability {old[0].compute_capability:g}"
        return DtypeChoice("float32", f"GPUs of {capability} have no bfloat16")
    advice = "these GPUs have no bfloat16; set models.dtype=float32" if old and asked == "bfloat16" else None
    return DtypeChoice(asked, "models.dtype says so", advice)


def _on_cpus(asked: Asked, cpu: Cpu) -> DtypeChoice:
    if asked == "auto":
        if cpu.native:
            return DtypeChoice("bfloat16", f"{cpu.describe()} computes it natively")
        return DtypeChoice("float32", f"{cpu.describe()} would emulate bfloat16, {SLOWDOWN}")
    advice = None
    if asked == "bfloat16" and not cpu.native:
        advice = f"{cpu.describe()} emulates bfloat16, {SLOWDOWN}; leave models.dtype out, or set it to float32"
    return DtypeChoice(asked, "models.dtype says so", advice)
