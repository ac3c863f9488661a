"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: trained in place of the weights, and exported merged.

Adapters are injected into the transformers model, which keeps its class. Engines receive merged weights only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from s2l_ray.errors import ConfigError
from s2l_ray.seeds import word
from s2l_ray.training.process_group import whole

if TYPE_CHECKING:
    from s2l_ray.config import TrainerConfig

ADAPTER = "default"


def add_adapters(model: PreTrainedModel, config: TrainerConfig, *, seed: int) -> None:
    """Freeze the model and put an adapter (B A) * lora_alpha / lora_rank beside each linear layer that is asked for.

    A is random and equal on every rank, B is zero: the model computes what it did.

    Raises:
        ConfigError: peft is not installed, or trainer.lora_targets names no linear layer of the decoder.
    """
    require_peft("trainer.lora_rank")
    from peft import LoraConfig, inject_adapter_in_model

    linear = {name.rpartition(".")[2] for name, m in model.base_model.named_modules() if isinstance(m, torch.nn.Linear)}
    targets = set(config.lora_targets) or linear
    if unknown := sorted(targets - linear):
        raise ConfigError(
            f"trainer.lora_targets: {unknown[0]!r} is no linear layer of {type(model).__name__}; "
            f"it has {', '.join(sorted(linear))}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(word(seed))
        adapters = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=sorted(targets))
        with _stand_ins(model.base_model, targets):
            inject_adapter_in_model(adapters, model, ADAPTER)


def require_peft(what: str) -> None:
    """Refuse `what` where peft is not installed.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(f"{what} needs the package peft; run `pip install '.[lora]'`")


@contextmanager
def _stand_ins(decoder: nn.Module, targets: set[str]) -> Iterator[None]:
    """Weights of one element of memory in place of those on the meta device.

    peft puts an adapter where its layer's weight is, and there the adapter would lose the values that it begins with.
    """
    linear = [m for name, m in decoder.named_modules() if name.rpartition(".")[2] in targets]
    without = {m: m.weight for m in linear if isinstance(m, nn.Linear) and m.weight.is_meta}
    for layer, weight in without.items():
        layer.weight = nn.Parameter(torch.zeros((), dtype=weight.dtype).expand(weight.shape), requires_grad=False)
    yield
    for layer, weight in without.items():
        layer.weight = weight.requires_grad_(False)


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """The model as it was before it had adapters: the reference. For forwards that no backward follows.

    peft's own `enable_adapters` also changes which parameters have gradients, which FSDP2 takes note of.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def base_name(name: str) -> str | None:
    """The name that a parameter has without adapters; None for a parameter of an adapter."""
    return None if f".{ADAPTER}." in name else name.replace(".base_layer.", ".")


def merged(model: PreTrainedModel, name: str, gathered: Tensor) -> Tensor:
    """`gathered`, the whole parameter `name`, with its adapter's share added in float32. A collective; same dtype."""
    module, layer, kind = name.rpartition(".base_layer.")
    if not layer or kind != "weight":
        return gathered
    adapted = model.get_submodule(module)
    sides = (adapted.lora_A[ADAPTER], adapted.lora_B[ADAPTER])
    a, b = (whole(side.weight.detach().to(gathered.device)).float() for side in sides)
    return with_adapter(gathered, a, b, adapted.scaling[ADAPTER])


def with_adapter(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """A weight [out, in] with its adapter's share, which is added in float32; in the weight's dtype.

    Args:
        a, b: the adapter's sides, float32 [rank, in] and [out, rank].
        scaling: lora_alpha / lora_rank.
    """
    return (weight.float() + (b @ a) * scaling).to(weight.dtype)
