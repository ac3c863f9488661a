"""The seconds of an update by its parts, from marks in the device's stream, and by kind of kernel."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from s2l_ray.training.clock import UpdateClock
from s2l_ray.training.trainer import PolicyTrainer

KINDS = {
    "collectives": r"nccl",
    "attention": r"flash|fmha|attention",
    "matrix products": r"gemm|nvjet|cutlass|xmma|cublas|splitk",
    "optimizer": r"multi_tensor|adam",
    "copies and casts": r"memcpy|memset|copy|catarray|fill",
    "reductions": r"reduce|softmax|norm",
    "other elementwise": r"elementwise|vectorized|index|gather|scatter",
}
"""Kind of kernel -> pattern of their names; the first that matches counts."""
LISTED = 15


def seconds_by_part(trainer: PolicyTrainer, update: Callable[[], Any]) -> dict[str, float]:
    """Run `update` and attribute its seconds to the parts of forward, backward and optimizer step."""
    clock = UpdateClock(trainer.device)
    policy, decoder = trainer.policy, trainer.policy.model.base_model

    def head_begins(_module: Any, _args: Any, output: Any) -> None:
        clock.enter("log-prob head, forward")
        if output.last_hidden_state.requires_grad:
            output.last_hidden_state.register_hook(lambda _: clock.enter("layers, backward"))

    def head_ends(_module: Any, _args: Any, scores: Any) -> None:
        clock.enter("loss")
        if scores.logprobs.requires_grad:
            scores.logprobs.register_hook(lambda _: clock.enter("log-prob head, backward"))

    hooks = [
        decoder.register_forward_pre_hook(lambda *_: clock.enter("layers, forward")),
        decoder.register_forward_hook(head_begins),
        policy.register_forward_hook(head_ends),
        trainer.optimizer.register_step_pre_hook(lambda *_: clock.enter("optimizer")),
        trainer.optimizer.register_step_post_hook(lambda *_: clock.enter("the rest")),
    ]
    try:
        clock.begin("the rest")
        update()
        parts = clock.stop()
    finally:
        for hook in hooks:
            hook.remove()
    seconds: dict[str, float] = defaultdict(float)
    for part in parts:
        seconds[part.name] += part.end - part.start
    return dict(seconds)


def seconds_by_kernel(update: Callable[[], Any]) -> dict[str, Any]:
    """Run `update` under torch's profiler: the GPU's seconds by kind of kernel, its idle seconds, the longest kernels.

    Raises:
        RuntimeError: the profiler cannot see the GPU.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        begin = time.perf_counter()
        update()
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    kernels = {e.key: e.self_device_time_total / 1e6 for e in recorded.key_averages() if e.self_device_time_total > 0}
    if not kernels:
        raise RuntimeError("the profiler recorded no kernels")
    kinds: dict[str, float] = defaultdict(float)
    for name, seconds in kernels.items():
        kinds[kind_of(name)] += seconds
    longest = sorted(kernels, key=kernels.__getitem__, reverse=True)[:LISTED]
    idle = max(0.0, wall - sum(kernels.values()))
    return {"kinds": dict(kinds) | {"idle": idle}, "longest": {name[:160]: kernels[name] for name in longest}}


def kind_of(kernel: str) -> str:
    """The kind of a kernel with this name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), "other")
