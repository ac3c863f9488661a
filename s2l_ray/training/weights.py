"""The policy's weights as engines and Hugging Face directories want them: whole tensors under their usual names."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from s2l_ray.training.lora import base_name, merged

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".index.json")


def weight_specs(model: PreTrainedModel, dtype: torch.dtype) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype name such as "bfloat16", shape) of what `full_weights` yields, in the same order; no collective."""
    name = str(dtype).removeprefix("torch.")
    named = [(base_name(key), parameter) for key, parameter in model.named_parameters()]
    return [(key, name, tuple(parameter.shape)) for key, parameter in named if key is not None]


def full_weights(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Gather one parameter at a time on `device`. A collective: every rank must exhaust it. Tied weights come once.

    Read only. The cast comes before the gather, so bfloat16 weights cost half of the master weights' traffic. Adapters
    are merged.
    """
    for name, parameter in model.named_parameters():
        if (key := base_name(name)) is not None:
            yield key, merged(model, name, parameter.detach().to(device=device, dtype=dtype).full_tensor())


def export_directory(
    model: PreTrainedModel, dtype: torch.dtype, device: torch.device, model_dir: str, directory: str, *, rank: int
) -> None:
    """Write a directory that transformers and vLLM load: weights in `dtype`, config, and model_dir's other files.

    A collective; rank 0 writes, and holds the whole model in host memory while it does.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in full_weights(model, dtype, device):
        if rank == 0:
            state[name] = tensor.to("cpu", copy=True)
    if rank != 0:
        return
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target, state_dict=state)
    config = copy.deepcopy(model.config)
    config.dtype = dtype  # save_pretrained wrote that of the master weights
    config.save_pretrained(target)
    for file in Path(model_dir).iterdir():
        if file.is_file() and not file.name.endswith(WEIGHT_FILES) and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)
