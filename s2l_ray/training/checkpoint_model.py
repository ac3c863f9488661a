"""A trainer's checkpoint as a model directory that transformers and vLLM load: a run's learner as it was at a step."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from s2l_ray.errors import ModelError
from s2l_ray.kinds import Dtype
from s2l_ray.machine.disk import open_up, writing
from s2l_ray.training.checkpoint import read_about
from s2l_ray.training.shard_files import Rows, ShardReader
from s2l_ray.training.weights import copy_beside_weights

OF_POLICY = "model/model."
"""How the names of the policy's weights begin in a checkpoint; what follows is the model's own name of a tensor."""


def write_checkpoint_model(trainer: Path, model_dir: Path, target: Path, dtype: Dtype | None = None) -> None:
    """Write the weights of a checkpoint, with the other files of the model it began as.

    The whole model is in host memory meanwhile. The directory is there whole or not at all.

    Args:
        trainer: the directory trainer/ of a checkpoint.
        model_dir: the learner that its run began with.
        target: of the model; must not exist.
        dtype: of the weights, which its configuration then names; None: the type of the checkpoint.

    Raises:
        ModelError: it is no complete checkpoint, or one of adapters alone.
        DataError: it is damaged.
        DiskError: the directory cannot be written.
    """
    weights = _weights(trainer, dtype)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    with writing(target):
        try:
            partial.mkdir(parents=True)
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
            copy_beside_weights(model_dir, partial)
            if dtype is not None:
                _name_dtype(partial / "config.json", dtype)
            open_up(partial)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _name_dtype(config: Path, dtype: Dtype) -> None:
    values = json.loads(config.read_bytes())
    values.pop("torch_dtype", None)  # its name in versions of transformers before 5
    config.write_text(json.dumps(values | {"dtype": dtype}, indent=2) + "\n", encoding="utf-8")


def _weights(trainer: Path, dtype: Dtype | None) -> dict[str, Tensor]:
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
            found[name.removeprefix(OF_POLICY)] = whole if dtype is None else whole.to(getattr(torch, dtype))
    return found
