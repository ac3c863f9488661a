"""The version of FlashAttention that the trainer's attention uses on GPUs."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch.nn import attention

from s2l_ray.errors import ConfigError

MODULE = "flash_attn_interface"
"""What FlashAttention 3 is imported as: its package, built for the torch that is there."""
HOPPER = 9
"""Major compute capability of the only GPUs that version 3 has kernels for."""


def use_flash_attention(version: Literal[2, 3], device: torch.device) -> None:
    """Let attention on CUDA in this process be computed by FlashAttention 2, which is torch's own, or 3.

    Raises:
        ConfigError: version 3 cannot be used here.
    """
    if version == 3:
        if problem := problem_with_version_3(device):
            raise ConfigError(f"trainer.flash_attention: 3 {problem}; use 2, which comes with torch")
        try:
            attention.activate_flash_attention_impl("FA3")
        except (ImportError, OSError, RuntimeError) as error:  # built for another torch or CUDA, or without backward
            raise ConfigError(
                f"trainer.flash_attention: 3 cannot use the module {MODULE} that is installed ({error}); install one "
                "that is built for this torch and CUDA, or use 2, which comes with torch"
            ) from error
    elif hasattr(attention, "current_flash_attention_impl") and attention.current_flash_attention_impl() is not None:
        attention.restore_flash_attention_impl()


def problem_with_version_3(device: torch.device) -> str | None:
    """Why version 3 cannot be used on this device, as the end of a sentence; None where nothing speaks against it."""
    needed = "needs a GPU of compute capability 9.0 (H100, H200)"
    if device.type != "cuda":
        return f"{needed}, and the trainer computes on the CPU"
    major, minor = torch.cuda.get_device_capability(device)
    if major != HOPPER:
        return f"{needed}, and {torch.cuda.get_device_name(device)} has {major}.{minor}"
    if not hasattr(attention, "current_flash_attention_impl"):
        return f"needs a newer torch than {torch.__version__}"
    if importlib.util.find_spec(MODULE) is None:
        return f"needs the module {MODULE} of FlashAttention 3's package, which is not installed"
    return None
