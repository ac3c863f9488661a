"""The policy: a Hugging Face decoder that answers with log-probs of chosen tokens, sharded by FSDP2."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from s2l_ray.errors import ModelError
from s2l_ray.training.attention import PACKED_ATTENTION
from s2l_ray.training.logprobs import TokenScores, chunked_scores
from s2l_ray.training.packing import MicroBatch
from s2l_ray.training.stored_model import StoredTensors, build_without_weights


class PackedPolicy(nn.Module):
    """Scores of the response tokens of a packed micro-batch, at the temperature that sampled them."""

    def __init__(self, model: PreTrainedModel, *, temperature: float, chunk: int):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.chunk = chunk
        self.softcap: float | None = getattr(model.config, "final_logit_softcapping", None)

    def forward(self, batch: MicroBatch) -> TokenScores:
        """The log-prob of each of the N `batch.targets`, and the entropy of what it is drawn from.

        Reads integer fields only: FSDP hands forward a copy of the batch whose floats are cast to the compute type.
        """
        hidden = self.model.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, packed=batch.layout
        ).last_hidden_state[0]
        return chunked_scores(
            hidden.index_select(0, batch.predictors),
            self.model.get_output_embeddings().weight,
            batch.targets,
            temperature=self.temperature,
            chunk=self.chunk,
            softcap=self.softcap,
        )


def load_causal_lm(model_dir: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The decoder of a model directory with packed attention, in the type it is stored in, without dropout.

    Its parameters are on the meta device: cut it (`shard`), then `fill` it.

    Raises:
        ModelError: the directory is missing, or the architecture computes something that the trainer would get wrong.
    """
    if not (Path(model_dir) / "config.json").is_file():
        raise ModelError(f"{model_dir} is not a model directory: it has no config.json")
    config = AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    _check_config(config, model_dir)
    stored = StoredTensors(model_dir)
    model = build_without_weights(
        model_dir, config, stored, attention=PACKED_ATTENTION, trust_remote_code=trust_remote_code
    )
    _check_model(model, stored)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the old log-probs and the current ones must be of one function
    return model


def shard(
    policy: PackedPolicy, mesh: DeviceMesh, *, compute_dtype: torch.dtype, offload: bool = False, reshard: bool = True
) -> PackedPolicy:
    """FSDP2 over `mesh`: weights computed with in `compute_dtype`, gradients added in float32.

    Weights that are trained are kept in float32, frozen ones in `compute_dtype`.

    Bottom-up, as fully_shard wants it, and each decoder layer takes its master type just before it is cut. What is on
    the meta device stays there, and is filled afterwards.

    Args:
        reshard: give gathered layers back after a forward, and not only after the backward.
        offload: keep shards, their gradients and so the optimizer's states in (on CUDA pinned) host memory.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    offloading = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
    cut = partial(fully_shard, mesh=mesh, mp_policy=precision, offload_policy=offloading)
    for layer in policy.model.base_model.layers:
        _cast_whole_parameters(layer, compute_dtype)
        cut(layer, reshard_after_forward=reshard)
    _cast_whole_parameters(policy, compute_dtype)
    cut(policy)
    return policy


def recompute_layers(model: PreTrainedModel, count: int) -> None:
    """Keep only the inputs of the first `count` decoder layers for backward, which computes the rest of them again.

    The first, because backward comes to them last: by then the others have given their activations back.
    """
    if count == 0:
        model.gradient_checkpointing_disable()
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in model.base_model.layers[count:]:
        layer.gradient_checkpointing = False


def _cast_whole_parameters(module: nn.Module, compute_dtype: torch.dtype) -> None:
    """Not the buffers: rotary frequencies stay float32."""
    for parameter in module.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else compute_dtype)


def _check_config(config: PretrainedConfig, model_dir: str) -> None:
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        raise ModelError(f"{model_dir}: {', '.join(sorted(kinds))} layers cannot be trained on packed sequences")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise ModelError(f"{model_dir}: the trainer does not support attn_logit_softcapping")
    for name in ("logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ModelError(f"{model_dir}: the trainer does not support {name}")


def _check_model(model: PreTrainedModel, stored: StoredTensors) -> None:
    name, model_dir = type(model).__name__, stored.model_dir
    head = model.get_output_embeddings()
    layers = getattr(model.base_model, "layers", None)
    if not model._supports_attention_backend or not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{model_dir}: {name} bypasses transformers' attention registry; it cannot be trained")
    if head is None or getattr(head, "bias", None) is not None:
        raise ModelError(f"{model_dir}: the trainer needs an output layer without bias, which {name} does not have")
    if foreign := [n for n, _ in model.named_parameters() if n not in stored]:
        raise ModelError(
            f"{model_dir}: {foreign[0]} of {name} is stored under another name, so engines would not know the trained "
            "weights; save the model again with transformers' save_pretrained, or use a dense model"
        )
