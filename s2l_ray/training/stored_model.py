"""A model directory's decoder without its weights, and the weights that are read into it: by a rank, its own rows.

The model is built with parameters on the meta device, cut, and then filled: no process ever holds more of it in host
memory than its shards and the rows that are being read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from s2l_ray.errors import ModelError
from s2l_ray.machine.disk import read_json
from s2l_ray.training.lora import base_name
from s2l_ray.training.shard_files import rows_of

INDEX = "model.safetensors.index.json"


class StoredTensors:
    """The tensors in a model directory's safetensors files.

    Raises:
        ModelError: there are no such files, or they are damaged.
        DataError: the index of several is no JSON.
    """

    def __init__(self, model_dir: str) -> None:
        self.model_dir = Path(model_dir)
        self._files = _files_by_name(self.model_dir)
        if not self._files:
            raise ModelError(
                f"{model_dir} has no weights in safetensors files; save it with transformers' save_pretrained"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._files)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first tensor of floating point, which stands for all."""
        for name in self._files:
            with self._open(name) as file:
                dtype: torch.dtype = file.get_slice(name)[:0].dtype
            if dtype.is_floating_point:
                return dtype
        raise ModelError(f"{self.model_dir}: its safetensors files hold no floating-point tensor")

    def rows(self, name: str, shape: torch.Size, first: int, count: int) -> Tensor:
        """Rows `first` to `first + count` of the tensor `name`, in the type that they are stored in.

        Args:
            shape: that the whole tensor should have.

        Raises:
            ModelError: the file has the tensor in another shape, or is damaged.
        """
        with self._open(name) as file:
            tensor = file.get_slice(name)
            if tuple(tensor.get_shape()) != tuple(shape):
                raise ModelError(
                    f"{self._files[name]}: {name} is {tensor.get_shape()}, and {list(shape)} by config.json; files and "
                    "config are of two models"
                )
            found: Tensor = tensor[first : first + count]
            return found

    def whole(self, name: str) -> Tensor:
        """The tensor `name`, in the type that it is stored in.

        Raises:
            ModelError: its file is damaged.
        """
        with self._open(name) as file:
            found: Tensor = file.get_tensor(name)
            return found

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        path = self._files[name]
        try:
            # Opened for each tensor: what is mapped counts as this process's memory until it is closed.
            with safe_open(path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is missing or damaged ({error}); fetch or copy the model again") from None


def _files_by_name(model_dir: Path) -> dict[str, Path]:
    index = model_dir / INDEX
    if index.is_file():
        return _files_in(index)
    found: dict[str, Path] = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged ({error}); fetch or copy the model again") from None
    return found


def _files_in(index: Path) -> dict[str, Path]:
    again = "fetch or copy the model again"
    weight_map = read_json(index, again).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(f"{index} is damaged (it names no shards: weight_map); {again}")
    return {name: index.parent / file for name, file in weight_map.items()}


def build_without_weights(
    model_dir: str, config: PretrainedConfig, stored: StoredTensors, *, attention: str, trust_remote_code: bool
) -> PreTrainedModel:
    """The model of a directory in the type that it is stored in. Parameters are on the meta device, buffers are not.

    Args:
        attention: name in transformers' registry of attention functions.
    """
    with _parameters_on_meta():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config,
            dtype=config.dtype or stored.dtype,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
        )
    if (Path(model_dir) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(model_dir)
    return model.eval()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Each parameter goes to the meta device as soon as its module has made it, before anything is written into it."""

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    # What the hook returns is registered; torch's annotation leaves that out.
    hook = register_module_parameter_registration_hook(on_meta)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def fill(model: PreTrainedModel, stored: StoredTensors, device: torch.device) -> None:
    """Give parameters that are on the meta device memory on `device`, and their stored values: a shard its own rows.

    A value goes through the type that the model was built in, as if the whole model had been loaded and then cast.

    Raises:
        ModelError: see `StoredTensors.read`; or parameters that config.json ties have different values.
    """
    filled: set[nn.Parameter] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tensor = base_name(name)
        if tensor is None or tensor not in stored:  # of an adapter; or tied to one that is there
            continue
        if parameter in filled:
            _check_tied(parameter, stored, tensor, model.config.dtype)
        elif parameter.is_meta:
            torch.utils.swap_tensors(parameter, _empty_like(parameter, device))
            own, first_row = _own_rows(parameter)
            own.copy_(stored.rows(tensor, parameter.shape, first_row, len(own)).to(model.config.dtype))
            filled.add(parameter)


def _empty_like(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=parameter.requires_grad)


def _own_rows(parameter: Tensor) -> tuple[Tensor, int]:
    """The rows of a parameter that this rank holds, and the number of the first of them."""
    if not isinstance(parameter, DTensor):
        return parameter, 0
    mesh, dimension = parameter.device_mesh, parameter.device_mesh.ndim - 1  # before it replicas, if there are any
    rows = rows_of(parameter.shape[0], mesh.get_local_rank(dimension), mesh.size(dimension))
    return parameter.to_local(), rows.start


def _check_tied(parameter: Tensor, stored: StoredTensors, name: str, dtype: torch.dtype) -> None:
    own, first_row = _own_rows(parameter)
    other = stored.rows(name, parameter.shape, first_row, len(own)).to(dtype)
    if not torch.equal(own.cpu(), other.to(own.dtype)):
        raise ModelError(
            f"{stored.model_dir}: config.json ties {name} to another tensor, but its files have other values for it; "
            "engines would take one and the trainer the other. Set tie_word_embeddings to false in config.json, or "
            "save the model again"
        )
