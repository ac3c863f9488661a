"""GPU memory that torch caches, where engines share the GPU with a trainer rank."""

from __future__ import annotations

import torch


def give_back_cached() -> None:
    """Return the memory of freed tensors that torch caches to the device. Does nothing in a process without CUDA.

    That of cuBLAS's work spaces too, which are made anew when they are needed: each is cut from whatever block was
    free when a thread first multiplied matrices, and would keep the whole of it.
    """
    if torch.cuda.is_initialized():
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
