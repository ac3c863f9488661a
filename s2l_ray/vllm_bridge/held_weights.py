"""Where one worker of an engine holds the elements of the trainer's tensors, found out by asking vLLM's own loaders.

vLLM fuses tensors, cuts them over workers, replicates KV heads and pads vocabularies, each architecture in its own way.
All of that is in its weight loaders, and they end in copies. So the trainer's tensors are loaded once without data
(torch's meta device) into parameters without data, and every copy is noted instead of made: a view of a parameter, and
the view of the trainer's tensor that goes there.

What is noted is checked against what the worker really has, and what that cannot explain is a `problem`: a tensor that
a loader changes, a parameter that no tensor fills, a layer that is quantised or derives other weights from its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload.layerwise import (
    _get_original_loader,
    _place_kernel_tensors,
    get_layerwise_info,
)
from vllm.model_executor.model_loader.reload.meta import restore_layer_on_meta, to_meta_tensor
from vllm.model_executor.model_loader.reload.utils import get_layer_params_buffers, get_layer_tensors

from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.digest import bits_sum, positions_sum, values_sum

UNQUANTISED = (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
UNITS = 512
"""Unit vectors that a packed weight is read with at a time."""
Slot = tuple[int, str]
"""id() of a layer, and the name of one of its parameters."""


@dataclass(frozen=True)
class Copied:
    """Part of a trainer's tensor that vLLM's loader puts into part of a parameter: views of the same shape."""

    tensor: int
    """Place of the tensor in the stream."""
    shape: tuple[int, ...]
    held_start: int
    held_strides: tuple[int, ...]
    start: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """One way to read a parameter of this worker.

    On CPUs vLLM computes with a packed copy of a linear layer's weights and mostly drops the original. The copy is read
    by computing with it: a layer's output for the unit vectors is its weight, transposed. Every product is one times a
    weight or zero, so it is exact, but for signs of zeros and subnormal numbers (`TensorDigest.values`).
    """

    label: str
    layer: torch.nn.Module
    name: str
    packed: bool
    copies: tuple[Copied, ...]

    def read(self, shape: torch.Size) -> Tensor:
        """The parameter as it is held now, of this shape."""
        held: Tensor = getattr(self.layer, self.name)
        if not self.packed:
            return held.detach()
        weight = torch.empty(shape, dtype=held.dtype, device=held.device)
        layer: Any = self.layer
        for first in range(0, shape[1], UNITS):
            columns = weight[:, first : first + UNITS]
            units = torch.zeros(columns.shape[1], shape[1], dtype=held.dtype, device=held.device)
            units[:, first:].fill_diagonal_(1)
            columns.copy_(layer.cpu_linear(units, held, None)[:, : shape[0]].T)
        return weight


class HeldWeights:
    """What a worker holds of the trainer's tensors.

    Args:
        model: of the worker, loaded.
        specs: the trainer's tensors, in the order of the stream.
    """

    def __init__(self, model: torch.nn.Module, specs: list[WeightSpec]) -> None:
        self.problems: list[str] = []
        """Why an engine's weights cannot be compared with the trainer's, one line each; empty: they can."""
        self._model = model
        self._load_weights: Any = model.load_weights
        self._specs = specs
        self._shapes: dict[Slot, torch.Size] = {}
        self._names = {id(layer): name for name, layer in model.named_modules()}
        self._readings = self._find_readings(self._record())
        self._check_modules()

    @property
    def rows(self) -> list[tuple[int, str, bool, int, int]]:
        """The fields of a `weights.held.HeldPart` for each place in which a tensor, or a part of it, is held."""
        found = []
        for reading in self._readings:
            for tensor, copies in _by_tensor(reading.copies):
                count = sum(torch.Size(copy.shape).numel() for copy in copies)
                covered = sum(int(positions_sum(copy.shape, copy.start, copy.strides, self._device)) for copy in copies)
                found.append((tensor, reading.label, reading.packed, count, covered % 2**64))
        return found

    @property
    def wholes(self) -> list[int]:
        """The `positions_sum` of each of the trainer's tensors, whole."""
        return [int(positions_sum((spec.numel,), 0, (1,), self._device)) % 2**64 for spec in self._specs]

    @torch.no_grad()
    def digests(self) -> list[int]:
        """The digest of each of `rows` as it is now: of its values where it is packed, else of its bits."""
        found = []
        for reading in self._readings:
            held = reading.read(self._shapes[id(reading.layer), reading.name])
            for tensor, copies in _by_tensor(reading.copies):
                dtype = self._specs[tensor].torch_dtype
                found.append(sum(_digest(held, copy, dtype, packed=reading.packed) for copy in copies) % 2**64)
        return found

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    # ---- what vLLM's loaders do -------------------------------------------------------------------------------------

    def _record(self) -> dict[Slot, list[Copied]]:
        """The copies that loading all tensors would make, by the parameter that they go to."""
        found: dict[Slot, list[Copied]] = {}
        with _without_data(self._model), torch.no_grad():
            places: dict[int, Slot] = {}
            for layer in self._model.modules():
                for name, tensor in (layer._parameters | layer._buffers).items():
                    if tensor is not None:
                        places[tensor.untyped_storage()._cdata] = (id(layer), name)
                        self._shapes[id(layer), name] = tensor.shape
            for number, spec in enumerate(self._specs):
                for slot, copied in self._load(number, spec, places):
                    found.setdefault(slot, []).append(copied)
        return found

    def _load(self, number: int, spec: WeightSpec, places: dict[int, Slot]) -> list[tuple[Slot, Copied]]:
        tensor = torch.empty(spec.shape, dtype=spec.torch_dtype, device="meta")
        recorder = _Recorder(number, tensor, places)
        try:
            with recorder:
                self._load_weights([(spec.name, tensor)])
        except Exception as error:
            self.problems.append(f"{spec.name}: vLLM's loader looks at its values ({type(error).__name__}: {error})")
            return []
        if recorder.unexplained:
            self.problems.append(f"{spec.name}: vLLM's loader changes it on its way into {recorder.unexplained}")
        elif not recorder.copied:
            self.problems.append(f"{spec.name}: vLLM's loader puts it nowhere")
        return recorder.copied

    # ---- what the worker has ----------------------------------------------------------------------------------------

    def _find_readings(self, copied: dict[Slot, list[Copied]]) -> list[Reading]:
        """How to read each parameter that tensors go to, and each layer that shares one of these parameters."""
        filled = {id(getattr(self._layer(slot), slot[1])): slot for slot in copied}
        readings: list[Reading] = []
        for layer in self._model.modules():
            for name, held in layer._parameters.items():
                slot = (id(layer), name)
                if held is None or not self._shapes.get(slot, held.shape).numel():
                    continue
                source = slot if slot in copied else filled.get(id(held))
                if source is None:
                    self.problems.append(f"{self._label(*slot)}: no tensor of the trainer's fills it")
                    continue
                readings += self._readings_of(layer, name, held, tuple(copied[source]), source == slot)
        return readings

    def _readings_of(
        self, layer: torch.nn.Module, name: str, held: Tensor, copies: tuple[Copied, ...], own: bool
    ) -> list[Reading]:
        label, shape = self._label(id(layer), name), self._shapes[id(layer), name]
        covered = sum(torch.Size(copy.shape).numel() for copy in copies)
        if covered < shape.numel() and not isinstance(layer, VocabParallelEmbedding):  # which has rows of padding
            self.problems.append(f"{label}: the trainer's tensors fill {covered} of its {shape.numel()} elements")
        found = []
        if any(not _holds(held.dtype, self._specs[copy.tensor].torch_dtype) for copy in copies):
            self.problems.append(f"{label}: is held in {held.dtype}, which the trainer's weights do not fit into")
        if held.numel():
            if held.shape != shape or not held.is_contiguous():
                self.problems.append(f"{label}: is held in another layout, {tuple(held.shape)}, not {tuple(shape)}")
            elif own:
                found.append(Reading(label, layer, name, False, copies))
        if name == "weight" and len(shape) == 2 and hasattr(layer, "cpu_linear"):
            found.append(Reading(f"{label}, packed", layer, name, True, copies))
        if not found and not held.numel():
            self.problems.append(f"{label}: is held in a form that cannot be read")
        return found

    def _check_modules(self) -> None:
        for name, layer in self._model.named_modules():
            method = getattr(layer, "quant_method", None)
            if method is not None and type(method) not in UNQUANTISED and any(True for _ in layer.parameters()):
                self.problems.append(f"{name}: its weights are held in the form of {type(method).__name__}")
            if hasattr(layer, "process_weights_after_loading") and not isinstance(layer, Attention):
                self.problems.append(f"{name}: {type(layer).__name__} derives weights of its own")

    def _layer(self, slot: Slot) -> torch.nn.Module:
        return next(layer for layer in self._model.modules() if id(layer) == slot[0])

    def _label(self, layer: int, name: str) -> str:
        return f"{self._names[layer]}.{name}"


class _Recorder(TorchDispatchMode):
    """Notes copies into parameters instead of making them."""

    def __init__(self, number: int, tensor: Tensor, places: dict[int, Slot]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.copied: list[tuple[Slot, Copied]] = []
        self.unexplained: str | None = None
        self._number = number
        self._source = tensor.untyped_storage()._cdata
        self._dtype = tensor.dtype
        self._places = places

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.ops.aten.copy_.default:
            return func(*args, **(kwargs or {}))
        target, source = args[:2]
        slot = self._places.get(target.untyped_storage()._cdata)
        if slot is None:
            return func(*args, **(kwargs or {}))
        if source.untyped_storage()._cdata != self._source or source.shape != target.shape:
            self.unexplained = slot[1]
            return target
        copied = Copied(
            self._number,
            tuple(source.shape),
            target.storage_offset(),
            target.stride(),
            source.storage_offset(),
            source.stride(),
        )
        self.copied.append((slot, copied))
        return target


@contextmanager
def _without_data(model: torch.nn.Module) -> Iterator[None]:
    """In here the model has the parameters that its loaders fill, without data; afterwards those it had."""
    infos = [(layer, get_layerwise_info(layer)) for layer in model.modules()]
    try:
        for layer, info in infos:
            info.kernel_tensors = get_layer_params_buffers(layer)
            info.kernel_non_persistent_buffers = set(layer._non_persistent_buffers_set)
            restore_layer_on_meta(layer, info)
            for name, tensor in layer._parameters.items():
                if tensor is not None and not tensor.is_meta:  # vLLM reloads biases in place
                    layer._parameters[name] = to_meta_tensor(tensor)
            for tensor in get_layer_tensors(layer).values():
                if hasattr(tensor, "weight_loader"):  # since the first weight sync it is one that gathers whole layers
                    tensor.weight_loader = _get_original_loader(tensor)
        yield
    finally:
        for layer, info in infos:
            if info.kernel_tensors is not None:
                _place_kernel_tensors(layer, info)
            info.reset()


def _holds(held: torch.dtype, sent: torch.dtype) -> bool:
    """Whether every weight of the type `sent` is exact in the type `held`."""
    return torch.promote_types(held, sent) == held


def _by_tensor(copies: tuple[Copied, ...]) -> list[tuple[int, list[Copied]]]:
    found: dict[int, list[Copied]] = {}
    for copy in copies:
        found.setdefault(copy.tensor, []).append(copy)
    return list(found.items())


def _digest(held: Tensor, copy: Copied, dtype: torch.dtype, *, packed: bool) -> int:
    part = held.as_strided(copy.shape, copy.held_strides, held.storage_offset() + copy.held_start)
    if part.dtype != dtype:
        # Held in a wider type, such as a bias in float32. What is not exact in the type sent was never sent.
        sent = part.to(dtype)
        part = sent.masked_fill(sent.to(part.dtype) != part, torch.nan)
    kind = values_sum if packed else bits_sum
    return int(kind(part, copy.start, copy.strides))
