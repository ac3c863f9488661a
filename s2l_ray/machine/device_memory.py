"""GPU memory that torch has no use for at the moment, where engines share the GPU with a trainer rank."""

from __future__ import annotations

import torch


def give_back_cached() -> None:
    """Let other processes have what torch keeps of freed tensors. Does nothing in a process that uses no GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
