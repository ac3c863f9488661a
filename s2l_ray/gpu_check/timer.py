"""Seconds that a computation takes on the device, and the rates that it is compared with."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from s2l_ray.errors import PlacementError
from s2l_ray.placement.gpu_types import GPU_TYPES, canonical_name


def device_seconds(work: Callable[[], object], *, repeats: int = 7, warm_up: int = 2) -> float:
    """Median over `repeats`, from events in the CUDA stream, after `warm_up` that do not count."""
    for _ in range(warm_up):
        work()
    times: list[float] = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


def matrix_flops_per_second(size: int = 8192) -> float:
    """The rate of a bfloat16 matrix product of random numbers: what this card can reach. Zeros would be faster."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / device_seconds(lambda: a @ b, repeats=15, warm_up=5)


def data_sheet_flops() -> float | None:
    """Dense bfloat16 FLOP/s of this card by its data sheet; None for a card that is not known here."""
    try:
        return GPU_TYPES[canonical_name(torch.cuda.get_device_name())].tflops * 1e12
    except PlacementError:
        return None
