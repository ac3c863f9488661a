"""The states of this process's random number generators as plain values, which JSON can hold."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators, on the CPU and on the current CUDA device."""
    name, keys, position, has_gauss, gauss = cast(
        "tuple[str, NDArray[np.uint32], int, int, float]", np.random.get_state()
    )
    state = {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators to what `random_state` returned, as it is or after a way through JSON."""
    torch.set_rng_state(_tensor(state["torch"]))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def _tensor(state: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
