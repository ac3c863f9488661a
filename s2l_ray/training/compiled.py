"""Decoder layers through torch.compile, so that a GPU does not wait for Python between hundreds of small kernels.

Attention is not compiled: it is one kernel already, and its lengths, which are Python integers, would become constants.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def compile_layers(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile the forward of every decoder layer, for any number of tokens; equal layers share what was compiled.

    FSDP's hooks and the recomputation of layers stay around it, as they are around a plain forward.

    Args:
        backend: torch.compile's.
    """
    for layer in model.base_model.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)


def run_eagerly(model: PreTrainedModel) -> None:
    """Undo `compile_layers`."""
    for layer in model.base_model.layers:
        layer.__dict__.pop("forward", None)
