"""The learner in this process, whole, for scores and gradients."""

from __future__ import annotations

import torch

from s2l_ray.kinds import Dtype
from s2l_ray.training.model import PackedPolicy, load_causal_lm
from s2l_ray.training.stored_model import StoredTensors, fill


def load_learner(model_dir: str, *, temperature: float, chunk: int, dtype: Dtype, remote_code: bool) -> PackedPolicy:
    """The learner on this machine's GPU, else on its cores.

    Args:
        model_dir: a directory in Hugging Face layout.
        temperature: at which it is trained.
        chunk: tokens whose logits exist at one time.
        dtype: of weights and gradients.

    Raises:
        ModelError: see `load_causal_lm` and `fill`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_causal_lm(model_dir, trust_remote_code=remote_code)
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay float32
        parameter.data = parameter.data.to(getattr(torch, dtype))
    fill(model, StoredTensors(model_dir), device)
    return PackedPolicy(model, temperature=temperature, chunk=chunk).to(device).eval()
