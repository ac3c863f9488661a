"""A trainer's checkpoint as a model directory that transformers and vLLM load: a run's learner as it was at a step."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from s2l_ray.errors import ModelError
from s2l_ray.machine.disk import open_up, writing
from s2l_ray.training.checkpoint import read_about
from s2l_ray.training.shard_files import Rows, ShardReader
from s2l_ray.training.weights import copy_beside_weights

OF_POLICY = "model/model."
"""How the names of the policy's weights begin in a checkpoint; what follows is the model's own name of a tensor."""


def write_checkpoint_model(trainer: Path, model_dir: Path, target: Path) -> None:
    """Write the weights of a checkpoint, in the type of the checkpoint, with the other files of the model it began as.

    The whole model is in host memory meanwhile. The directory is there whole or not at all.

    Args:
        trainer: the directory trainer/ of a checkpoint.
        model_dir: the learner that its run began with.
        target: of the model; must not exist.

    Raises:
        ModelError: it is no complete checkpoint, or one of adapters alone.
        DataError: it is damaged.
        DiskError: the directory cannot be written.
    """
    weights = _weights(trainer)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    with writing(target):
        try:
            partial.mkdir(parents=True)
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
            copy_beside_weights(model_dir, partial)
            open_up(partial)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _weights(trainer: Path) -> dict[str, Tensor]:
    about = read_about(trainer)
    found: dict[str, Tensor] = {}
    with ShardReader(trainer, about["ranks"]) as reader:
        for name, tensor in about["tensors"].items():
            if not name.startswith(OF_POLICY):
                continue
            if "lora_" in name:
                raise ModelError(
                    f"{trainer} has adapters alone (trainer.lora_rank); evaluate the run's trained model, into which "
                    "they are merged"
                )
            shape = tensor["shape"]
            whole = torch.empty(shape, dtype=getattr(torch, tensor["dtype"]))
            if shape:
                reader.read_rows(name, Rows(0, shape[0]), shape[0], whole)
            else:
                reader.read_whole(name, whole)
            found[name.removeprefix(OF_POLICY)] = whole
    return found
