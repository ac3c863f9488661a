"""Checks of the tensors that a user's functions return. Built-in functions are not checked at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def is_tensor_like(value: object, like: Tensor) -> bool:
    """Whether a value is a tensor of the shape of another tensor, on the same device."""
    import torch  # not at the top: the configuration imports this package

    return isinstance(value, torch.Tensor) and value.shape == like.shape and value.device == like.device


def wanted(like: Tensor) -> str:
    """What `is_tensor_like` asks for."""
    return f"a tensor of shape {list(like.shape)} on {like.device}"


def described(value: object) -> str:
    """A value in a few words: "a tensor of shape [3] on cpu", "a value of type int"."""
    import torch

    if value is None:
        return "None"
    if isinstance(value, torch.Tensor):
        return wanted(value)
    return f"a value of type {type(value).__name__}"


def made_not_finite(returned: Tensor, given: Tensor) -> int:
    """How many values a function returned that are NaN or infinite, 0 if it was given such values itself.

    A model that has diverged is not the function's fault: the trainer skips the optimizer step then. The usual case,
    that everything is finite, waits for the device once.
    """
    finite = returned.isfinite()
    if bool(finite.all()) or not bool(given.isfinite().all()):
        return 0
    return int((~finite).sum())
