"""Seeds, and bit-equal updates from equal inputs on one machine and one number of ranks."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from s2l_ray.seeds import word


def compute_deterministically() -> None:
    """Make torch, cuDNN and cuBLAS use deterministic kernels in this process from now on; others raise RuntimeError.

    Call it before CUDA starts: cuBLAS reads its workspace size once
    (https://docs.pytorch.org/docs/stable/notes/randomness.html).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch with any integer."""
    number = word(seed)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)
