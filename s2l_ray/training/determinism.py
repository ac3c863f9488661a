"""Bit-equal updates from equal inputs, on one machine and one number of ranks."""

from __future__ import annotations

import os

import torch


def compute_deterministically() -> None:
    """Make torch, cuDNN and cuBLAS use deterministic kernels in this process from now on; others raise RuntimeError.

    Call it before CUDA starts: cuBLAS reads its workspace size once
    (https://docs.pytorch.org/docs/stable/notes/randomness.html).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
