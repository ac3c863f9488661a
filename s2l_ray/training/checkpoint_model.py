"""A trainer's checkpoint as a model directory that transformers and vLLM load: a run's learner as it was at a step.

Of a run with adapters a checkpoint has these alone (see `checkpoint`): they are merged into the model that the run
began with, or written by themselves, in PEFT's layout.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from s2l_ray.errors import ConfigError, ModelError
from s2l_ray.kinds import Dtype
from s2l_ray.machine.disk import open_up, writing
from s2l_ray.tasks.model_files import read_json
from s2l_ray.training.checkpoint import read_about
from s2l_ray.training.lora import ADAPTER, base_name, require_peft, with_adapter
from s2l_ray.training.shard_files import Rows, ShardReader
from s2l_ray.training.stored_model import StoredTensors
from s2l_ray.training.weights import copy_beside_weights

OF_POLICY = "model/model."
"""How the names of the policy's weights begin in a checkpoint; what follows is the model's own name of a tensor."""
SIDES = ("lora_A", "lora_B")
"""What peft calls the two sides of an adapter, [rank, in] and [out, rank]."""


def write_checkpoint_model(trainer: Path, model_dir: Path, target: Path, dtype: Dtype, *, lora_alpha: float) -> None:
    """Write the weights of a checkpoint, adapters merged, with the other files of the model it began as.

    The whole model is in host memory meanwhile. The directory is there whole or not at all.

    Args:
        trainer: the directory trainer/ of a checkpoint.
        model_dir: the learner that its run began with.
        target: of the model; must not exist.
        dtype: of the weights, which its configuration then names. Adapters are merged as the trainer of a run that
            computes in this type does it.
        lora_alpha: of the run, if it had adapters.

    Raises:
        ModelError: it is no complete checkpoint, its adapters are not of this model, or the model is damaged.
        DataError: it is damaged.
        DiskError: the directory cannot be written.
    """
    cast = getattr(torch, dtype)
    config = read_json("models.learner", model_dir / "config.json")
    adapters = _read(trainer, cast=None, adapters=True)
    if adapters:
        stored = StoredTensors(str(model_dir))
        weights = _merged(trainer, stored, _built_in(config, stored), adapters, cast, lora_alpha)
    else:
        weights = _read(trainer, cast=cast)
    with _directory(target) as partial:
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        copy_beside_weights(model_dir, partial)
        config.pop("torch_dtype", None)  # its name in versions of transformers before 5
        text = json.dumps(config | {"dtype": dtype}, indent=2) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")


def write_adapter(trainer: Path, learner: str, target: Path, dtype: Dtype, *, lora_alpha: float) -> None:
    """Write the adapters of a checkpoint in PEFT's layout, which peft and vLLM load on top of the learner.

    Args:
        trainer: the directory trainer/ of a checkpoint.
        learner: the model that its run began with, as the adapter's configuration names it.
        target: of the adapter; must not exist.
        dtype: of its weights, which are trained in float32.
        lora_alpha: of the run.

    Raises:
        ConfigError: peft is not installed, or the run had no adapters.
        ModelError: it is no complete checkpoint.
        DataError: it is damaged.
        DiskError: the directory cannot be written.
    """
    require_peft("writing an adapter")
    from peft import LoraConfig

    adapters = _read(trainer, cast=getattr(torch, dtype), adapters=True)
    if not adapters:
        raise ConfigError(f"{trainer} has no adapters: its run had no trainer.lora_rank, and trained whole weights")
    layers = {name.partition(".lora_")[0] for name in adapters}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=learner,
        r=_rank(adapters),
        lora_alpha=lora_alpha,
        target_modules=sorted({layer.rpartition(".")[2] for layer in layers}),
        inference_mode=True,
    )
    weights = {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": tensor for name, tensor in adapters.items()}
    with _directory(target) as partial:
        save_file(weights, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(partial))


@contextmanager
def _directory(target: Path) -> Iterator[Path]:
    """A directory that becomes `target` when everything is in it."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    with writing(target):
        try:
            partial.mkdir(parents=True)
            yield partial
            open_up(partial)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _built_in(config: Mapping[str, Any], stored: StoredTensors) -> torch.dtype:
    """The type that the trainer builds the model in, which every value goes through (see `stored_model.fill`)."""
    named = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."), None)
    return named if isinstance(named, torch.dtype) else stored.dtype


def _read(trainer: Path, *, cast: torch.dtype | None, adapters: bool = False) -> dict[str, Tensor]:
    """The policy's weights, or its adapters, by the model's own names; cast one by one."""
    about = read_about(trainer)
    found: dict[str, Tensor] = {}
    with ShardReader(trainer, about["ranks"]) as reader:
        for stored, tensor in about["tensors"].items():
            name = stored.removeprefix(OF_POLICY)
            if name == stored or (base_name(name) is None) != adapters:
                continue
            shape = tensor["shape"]
            whole = torch.empty(shape, dtype=getattr(torch, tensor["dtype"]))
            if shape:
                reader.read_rows(stored, Rows(0, shape[0]), shape[0], whole)
            else:
                reader.read_whole(stored, whole)
            found[name] = whole if cast is None else whole.to(cast)
    return found


def _merged(
    trainer: Path,
    stored: StoredTensors,
    built: torch.dtype,
    adapters: Mapping[str, Tensor],
    cast: torch.dtype,
    lora_alpha: float,
) -> dict[str, Tensor]:
    """The model's weights with the adapters' shares, as engines had them: cast before and after (see `lora.merged`)."""
    scaling = lora_alpha / _rank(adapters)
    found: dict[str, Tensor] = {}
    used = 0
    for name in stored.names:
        weight = stored.whole(name).to(built).to(cast)
        layer = name.removesuffix(".weight")
        a, b = (adapters.get(f"{layer}.{side}.{ADAPTER}.weight") for side in SIDES)
        if a is not None and b is not None:
            if weight.shape != (len(b), a.shape[1]):
                break
            weight = with_adapter(weight, a.float(), b.float(), scaling)
            used += len(SIDES)
        found[name] = weight
    if used < len(adapters):
        raise ModelError(
            f"{trainer} has adapters of another model than {stored.model_dir}: names or shapes of layers differ"
        )
    return found


def _rank(adapters: Mapping[str, Tensor]) -> int:
    return next(len(tensor) for name, tensor in adapters.items() if f".{SIDES[0]}." in name)
