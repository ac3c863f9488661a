"""Stage 2: packed attention and its gradient against softmax written out in float64, one sequence at a time."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s2l_ray.gpu_check.check import Check
from s2l_ray.gpu_check.timer import device_seconds
from s2l_ray.training.attention import PackedLayout, packed_attention
from s2l_ray.training.flash_attention import problem_with_version_3, use_flash_attention

UNEQUAL, EQUAL, ALONE = [1, 5, 64, 131, 300], [64, 64, 64], [1]
CASES = ((4, 4, 64, UNEQUAL), (16, 8, 64, UNEQUAL), (16, 8, 128, UNEQUAL), (8, 1, 128, UNEQUAL), (16, 8, 128, EQUAL),
         (16, 8, 64, ALONE))  # fmt: skip
"""Heads, key-value heads, head dimension, lengths."""
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""On |found - reference| / |reference|. Rounding alone makes up to 1e-5, and 2e-3 to 5e-3; TF32 makes 3e-4."""
TIMED_LENGTHS, TIMED_HEADS, TIMED_KV_HEADS, TIMED_DIM = [1024] * 16, 16, 8, 128
"""As in Qwen3-0.6B and 1.7B."""


class Packed(NamedTuple):
    """Random inputs of one call, with transformers' shapes: [1, heads, T, D]."""

    query: Tensor
    key: Tensor
    value: Tensor
    layout: PackedLayout
    lengths: list[int]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value."""
        return self.query, self.key, self.value

    @classmethod
    def random(cls, heads: int, kv_heads: int, dim: int, lengths: list[int], device: str, dtype: torch.dtype) -> Packed:
        """Normally distributed inputs for sequences of these lengths, which require gradients."""

        def made(heads: int) -> Tensor:
            return torch.randn(1, heads, sum(lengths), dim, device=device, dtype=dtype).requires_grad_()

        layout = PackedLayout.of(lengths).to(torch.device(device))
        return cls(made(heads), made(kv_heads), made(kv_heads), layout, lengths)

    def attend(self) -> Tensor:
        """[1, T, heads, D], by the trainer's own function."""
        attended: Tensor = packed_attention(nn.Identity(), *self.inputs, None, packed=self.layout)[0]
        return attended


def run(check: Check) -> None:
    """Compare every case in both types, and time the trainer's call on a GPU."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = "cuda" if check.cuda else "cpu"
    for dtype in (torch.float32, torch.bfloat16):
        for case in CASES:
            with check.part(_name(case, dtype)):
                _compare(check, _name(case, dtype), Packed.random(*case, device, dtype))
        with check.part(f"isolation in {dtype}"):
            _isolation(check, device, dtype)
    check.need_gpu("packed attention on the CPU is right")
    with check.part("speed"):
        _speed(check)
    with check.part("FlashAttention 3"):
        _version_3(check)


def _name(case: tuple[int, int, int, list[int]], dtype: torch.dtype) -> str:
    heads, kv_heads, dim, lengths = case
    return f"{heads}/{kv_heads} heads of {dim}, lengths {lengths}, {str(dtype).removeprefix('torch.')}"


def _compare(check: Check, name: str, packed: Packed) -> None:
    found = packed.attend()
    upstream = torch.randn_like(found)
    gradients = torch.autograd.grad(found, packed.inputs, upstream)
    query, key, value = exact = tuple(x.detach().double().cpu().requires_grad_() for x in packed.inputs)
    expected = _written_out(query, key, value, packed.lengths)
    expected_gradients = torch.autograd.grad(expected, exact, upstream.double().cpu())
    errors = {"output": relative_error(found, expected)}
    names = ("query", "key", "value")
    for which, gradient, reference in zip(names, gradients, expected_gradients, strict=True):
        if reference.norm() > 0:  # a sequence of one token attends to itself alone, whatever query and key are
            errors[f"gradient by {which}"] = relative_error(gradient, reference)
    worst = max(errors.values())
    check.measure(**{name: errors})
    check.expect(worst <= BOUNDS[packed.query.dtype], f"{name}: relative error {worst:.1e}")


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| in float64; what is not finite gives NaN, which is below no bound."""
    expected = expected.detach().double().cpu()
    return float((found.detach().double().cpu() - expected).norm() / expected.norm())


def _written_out(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """Causal softmax(q k / sqrt(D)) v of each sequence by itself: [1, T, heads, D]."""
    groups = query.shape[1] // key.shape[1]
    parts = zip(*(x[0].split(lengths, dim=1) for x in (query, key, value)), strict=True)
    return torch.cat([_attended(q, k, v, groups) for q, k, v in parts], dim=1).transpose(0, 1)[None]


def _attended(q: Tensor, k: Tensor, v: Tensor, groups: int) -> Tensor:
    """[heads, n, D]; query head h reads key-value head h // groups."""
    heads = torch.arange(q.shape[0]) // groups
    later = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
    scores = q @ k[heads].transpose(1, 2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v[heads]


def _isolation(check: Check, device: str, dtype: torch.dtype) -> None:
    """Another first sequence leaves what comes out of the second as it was, to the bit."""
    packed = Packed.random(4, 2, 64, [40, 70], device, dtype)
    with torch.no_grad():
        before = packed.attend()[0, 40:].clone()
        for x in packed.inputs:
            x[0, :, :40] = torch.randn_like(x[0, :, :40])
        same = torch.equal(packed.attend()[0, 40:], before)
    check.expect(same, f"sequences do not see each other, {str(dtype).removeprefix('torch.')}")


def _speed(check: Check) -> None:
    """The trainer's call, and the same kernel on keys and values that are not repeated to all heads."""
    packed = Packed.random(TIMED_HEADS, TIMED_KV_HEADS, TIMED_DIM, TIMED_LENGTHS, "cuda", torch.bfloat16)
    _time(check, "keys repeated", packed, packed.attend)
    try:
        _time(check, "keys not repeated", packed, lambda: _unrepeated(packed))
    except (RuntimeError, TypeError) as error:  # a kernel that the trainer does not use
        check.say(f"keys not repeated: not offered by this torch ({str(error).splitlines()[0]})")


def _version_3(check: Check) -> None:
    """The same comparisons and times with trainer.flash_attention: 3, where that can be used."""
    device = torch.device("cuda")
    if problem := problem_with_version_3(device):
        check.say(f"trainer.flash_attention: 3 {problem}")
        return
    use_flash_attention(3, device)
    try:
        for case in CASES:
            name = f"FlashAttention 3, {_name(case, torch.bfloat16)}"
            _compare(check, name, Packed.random(*case, "cuda", torch.bfloat16))
        packed = Packed.random(TIMED_HEADS, TIMED_KV_HEADS, TIMED_DIM, TIMED_LENGTHS, "cuda", torch.bfloat16)
        _time(check, "FlashAttention 3", packed, packed.attend)
    finally:
        use_flash_attention(2, device)


def _time(check: Check, name: str, packed: Packed, attend: Callable[[], Tensor]) -> None:
    # Scores and weighted values of half of all pairs; the backward is two and a half times a forward.
    flops = 2 * TIMED_HEADS * TIMED_DIM * sum(n * (n + 1) for n in TIMED_LENGTHS)
    out = attend()
    upstream = torch.randn_like(out)
    forward = device_seconds(attend)
    whole = device_seconds(lambda: torch.autograd.grad(attend(), packed.inputs, upstream))
    check.measure(
        **{
            f"{name}, forward ms": forward * 1e3,
            f"{name}, forward and backward ms": whole * 1e3,
            f"{name}, forward and backward tflops": 3.5 * flops / whole / 1e12,
            f"{name}, differs from the trainer's by": relative_error(out.flatten(), packed.attend().flatten()),
        }
    )


def _unrepeated(packed: Packed) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in packed.inputs)
    ends, longest = packed.layout.cu_seqlens, packed.layout.max_length
    out: Tensor = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(-1, 0), **grouped)  # type: ignore[assignment]  # a tuple only with return_aux
    return out
