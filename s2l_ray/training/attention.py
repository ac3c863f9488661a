"""Causal attention over packed sequences, plugged into transformers' attention registry as `s2l_packed`.

Transformers hands every keyword argument of the decoder's forward down to the attention function; the layout of the
packed row travels that way. No sequence can see another: CUDA uses the variable-length flash kernel, everything else
lays the sequences out as rows of a batch, where causality alone hides the right padding from real tokens.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from s2l_ray.errors import ModelError

PACKED_ATTENTION = "s2l_packed"


@dataclass(frozen=True)
class PackedLayout:
    """The place of each sequence in a packed row of T tokens."""

    cu_seqlens: Tensor
    """int32 [sequences + 1], on the compute device: sequence s is the tokens cu_seqlens[s] to cu_seqlens[s + 1]."""
    max_length: int
    padded_index: Tensor | None
    """int64 [T]: each token's place in the [sequences * max_length] padded layout; None if nothing would be padded."""

    @classmethod
    def of(cls, lengths: list[int]) -> PackedLayout:
        """The layout of sequences of these lengths, on the CPU."""
        sizes = torch.tensor(lengths)
        ends = sizes.cumsum(0)
        longest = max(lengths)
        padded_index = None
        if min(lengths) != longest:
            shift = torch.arange(len(lengths)) * longest - (ends - sizes)
            padded_index = torch.arange(int(ends[-1])) + shift.repeat_interleave(sizes)
        return cls(F.pad(ends, (1, 0)).to(torch.int32), longest, padded_index)

    def to(self, device: torch.device) -> PackedLayout:
        """The same layout on `device`."""
        index = None if self.padded_index is None else self.padded_index.to(device, non_blocking=True)
        return PackedLayout(self.cu_seqlens.to(device, non_blocking=True), self.max_length, index)


@torch._dynamo.disable  # type: ignore[untyped-decorator]  # torch gives it no types
def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed: PackedLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function: query [1, heads, T, D], key and value [1, kv heads, T, D] -> [1, T, heads, D].

    Raises:
        ModelError: the model asks for an attention that is not plain causal attention.
    """
    if packed is None or attention_mask is not None:
        raise ModelError(
            f"{type(module).__name__} does not get the packed layout (or gets a mask): it cannot be trained"
        )
    if softcap is not None or s_aux is not None:
        raise ModelError(f"{type(module).__name__} uses attention soft-capping or sinks; the trainer supports neither")
    if sliding_window is not None and packed.max_length > sliding_window:
        raise ModelError(
            f"a sequence of {packed.max_length} tokens exceeds the sliding window ({sliding_window}) of "
            f"{type(module).__name__}; lower rollout.max_tokens or data.max_prompt_tokens"
        )
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, heads, D]
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        return _flash(q, k, v, packed, scaling)[None], None
    return _batched(q, _to_heads(k, q), _to_heads(v, q), packed, scaling)[None], None


def _to_heads(x: Tensor, query: Tensor) -> Tensor:
    """Keys or values [T, kv heads, D], each repeated for the heads of queries that share it."""
    groups = query.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _flash(q: Tensor, k: Tensor, v: Tensor, packed: PackedLayout, scale: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # needs a CUDA build when it is called

    ends, longest = packed.cu_seqlens, packed.max_length
    grouped: dict[str, Any] = {}
    if _takes_grouped_queries():
        grouped["enable_gqa"] = q.shape[1] != k.shape[1]
    else:
        k, v = _to_heads(k, q), _to_heads(v, q)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out: Tensor = varlen_attn(  # type: ignore[assignment]  # a tuple only with return_aux
        q, k, v, ends, ends, longest, longest, scale=scale, window_size=(-1, 0), **grouped
    )
    return out


@cache
def _takes_grouped_queries() -> bool:
    """Whether this torch's kernel reads shared keys and values as they are, without a copy for every head."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _batched(q: Tensor, k: Tensor, v: Tensor, packed: PackedLayout, scale: float | None) -> Tensor:
    """The same through scaled_dot_product_attention on [sequences, heads, max_length, D].

    CPUs compute it in float32: their bfloat16 backward is several times slower.
    """
    dtype = q.dtype if q.is_cuda else torch.float32
    count, longest, index = len(packed.cu_seqlens) - 1, packed.max_length, packed.padded_index

    def rows(x: Tensor) -> Tensor:
        x = x.to(dtype)
        if index is not None:
            x = x.new_zeros(count * longest, *x.shape[1:]).index_copy(0, index, x)
        return x.view(count, longest, *x.shape[1:]).transpose(1, 2)

    out = F.scaled_dot_product_attention(rows(q), rows(k), rows(v), is_causal=True, scale=scale)
    out = out.transpose(1, 2).reshape(count * longest, *q.shape[1:]).to(q.dtype)
    return out if index is None else out.index_select(0, index)


# Transformers builds no mask for a name that its mask registry does not know, so only the function is registered.
AttentionInterface.register(PACKED_ATTENTION, packed_attention)
