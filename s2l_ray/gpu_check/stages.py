"""The stages, in the order in which they run."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """One check, in a process of its own."""

    name: str
    about: str
    seconds: float
    """The most that it may take."""
    module: str
    """Has `run(check)`."""


STAGES = {
    name: Stage(name, about, seconds, f"s2l_ray.gpu_check.stage_{name}")
    for name, about, seconds in (
        ("machine", "versions, memory, kernels, and this card's ceilings", 90),
        ("attention", "packed attention and its gradient against a reference in float64", 120),
        ("update", "an update on the GPU against float32 on the CPU", 240),
        ("memory", "peak memory against the plan's ledger; what a weight sync leaves", 240),
        ("engine", "vLLM samples, sleeps, wakes; log-probs against the trainer's; rate", 480),
        ("weight_sync", "weights from a trainer to an engine on the same GPU by CUDA IPC", 180),
        ("ranks", "two FSDP ranks against one", 120),
        ("train", "s2l train on the embedded family, in each placement mode that fits", 780),
        ("mfu", "model FLOP utilisation of updates at Qwen3-0.6B and 1.7B shapes", 420),
    )
}
