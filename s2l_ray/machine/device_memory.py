"""GPU memory that torch caches, where engines share the GPU with a trainer rank."""

from __future__ import annotations

import torch


def give_back_cached() -> None:
    """Return the memory of freed tensors that torch caches to the device. Does nothing in a process without CUDA."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
