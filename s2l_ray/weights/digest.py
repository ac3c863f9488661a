"""Digests of weights: equal digests mean equal weights, bit for bit, wherever the weights are and however they are cut.

The digest of a tensor is the sum, modulo 2**64, of one 64-bit word for each of its elements. The word is a function of
the element's position in the whole tensor, laid out flat, and of its bits. A sum does not depend on the order, so parts
of a tensor that lie on several trainer ranks or workers have digests that add up to that of the whole.

Position and bits are put side by side in 64 bits, which is one-to-one, and then mixed by the finaliser of SplitMix64
(Steele, Lea and Flood, OOPSLA 2014; its constants are David Stafford's "Mix13"), which is one-to-one as well. Hence:

- One element that changed, by any number of bits, always changes the digest.
- Any other change (elements or rows exchanged, a tensor of an older version, another tensor in its place) replaces a
  set of words by a set of other words. Words of different inputs behave like independent random numbers of 64 bits, so
  the probability that both sets have the same sum is 2**-64, or 5e-20. Were all of 400 tensors wrong after each of a
  million weight syncs, the probability that any one of these differences goes unseen is 2e-11.

It is no cryptographic hash: someone who chooses the weights can construct a collision. It is against errors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from s2l_ray.errors import ModelError
from s2l_ray.weights.buckets import WeightSpec

CHUNK = {"cpu": 2**16, "cuda": 2**20}
"""Elements that are mixed at a time, by the type of the device: as many as its cache holds several times in int64."""
GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WIDTH = {torch.bfloat16: 16, torch.float32: 32}
"""Bits of the dtypes that weights are sent in."""
EXPONENT = {torch.bfloat16: 0x7F80, torch.float32: 0x7F800000}
INTEGER = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class TensorDigest(NamedTuple):
    """Two digests of one tensor, each as an integer below 2**64."""

    bits: int
    """Of every bit."""
    values: int
    """Of the same tensor with positive zeros in place of negative zeros and of subnormal numbers, whose magnitude is
    below 2**-126. For what is read back by computing with it on CPUs, which loses these."""


def digest_sums(tensor: Tensor, start: int = 0, strides: Sequence[int] | None = None) -> Tensor:
    """The sums of `TensorDigest` over a part of a tensor: int64 [2], on the tensor's device, modulo 2**64.

    Needs memory for a few times CHUNK elements, and no copy on the host.

    Args:
        tensor: bfloat16 or float32, of any shape and strides.
        start: position of its first element in the whole tensor, laid out flat.
        strides: distance in the whole tensor of neighbours along each dimension; default: those of a tensor of this
            shape that lies whole.

    Raises:
        ValueError: another dtype, or a position that does not fit beside an element's bits into 64 bits.
    """
    strides = _dense(tensor.shape) if strides is None else strides
    _check(tensor, start, strides)
    bits = torch.zeros((), dtype=torch.int64, device=tensor.device)
    smallest = torch.zeros((), dtype=torch.bool, device=tensor.device)
    for part, positions in _chunks(tensor.detach(), start, strides):
        words = _words(part)
        smallest |= _is_flushed(words, part.dtype).any()
        bits += _mixed(words, positions, part.dtype)
    return torch.stack([bits, values_sum(tensor, start, strides) if smallest.item() else bits])


def values_sum(tensor: Tensor, start: int = 0, strides: Sequence[int] | None = None) -> Tensor:
    """The sum of `TensorDigest.values` alone, int64 []. Arguments and errors as with `digest_sums`."""
    strides = _dense(tensor.shape) if strides is None else strides
    _check(tensor, start, strides)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part, positions in _chunks(tensor.detach(), start, strides):
        words = _words(part)
        total += _mixed(words.masked_fill_(_is_flushed(words, part.dtype), 0), positions, part.dtype)
    return total


def bits_sum(tensor: Tensor, start: int = 0, strides: Sequence[int] | None = None) -> Tensor:
    """The sum of `TensorDigest.bits` alone, int64 []. Arguments and errors as with `digest_sums`."""
    strides = _dense(tensor.shape) if strides is None else strides
    _check(tensor, start, strides)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part, positions in _chunks(tensor.detach(), start, strides):
        total += _mixed(_words(part), positions, part.dtype)
    return total


def positions_sum(shape: Sequence[int], start: int, strides: Sequence[int], device: torch.device) -> Tensor:
    """Digest of a set of positions, int64 []: of a part with elements that are all 0.

    Parts whose sums add up to that of the whole tensor cover it, each element once.
    """
    zero = torch.zeros((), dtype=torch.bfloat16, device=device).expand(tuple(shape))
    return bits_sum(zero, start, strides)


def unsigned(total: int) -> int:
    """A sum in int64 as the same number modulo 2**64, not negative."""
    return total % 2**64


def tensor_digest(tensor: Tensor) -> TensorDigest:
    """Digest of a whole tensor, bfloat16 or float32."""
    return TensorDigest(*map(unsigned, digest_sums(tensor).tolist()))


def combined_digest(weights: Iterable[tuple[WeightSpec, int]]) -> str:
    """One digest of a model in 16 hexadecimal digits, from the `TensorDigest.bits` of its tensors in any order."""
    rows = sorted(f"{spec.name} {spec.dtype} {list(spec.shape)} {bits:016x}" for spec, bits in weights)
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=8).hexdigest()


def state_digest(state: Iterable[tuple[str, Tensor]]) -> str:
    """The `combined_digest` of a state dict's items.

    A tensor that is tied to an earlier one counts once, under the first of its names, as in weight syncs.
    """
    seen: set[tuple[int, tuple[int, ...]]] = set()
    rows = []
    for name, tensor in state:
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if place not in seen or not tensor.numel():
            seen.add(place)
            dtype = str(tensor.dtype).removeprefix("torch.")
            rows.append((WeightSpec(name, dtype, tuple(tensor.shape)), unsigned(int(bits_sum(tensor)))))
    return combined_digest(rows)


def directory_digest(directory: str | Path) -> str:
    """The `combined_digest` of a Hugging Face directory with safetensors, read tensor by tensor.

    That of a model which a run exported is the digest that the run's last step recorded (cluster.verify_weights).

    Raises:
        ModelError: it has no safetensors, or a tensor in another dtype than bfloat16 and float32.
    """
    from safetensors import safe_open

    rows = []
    for file in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  # it is no mapping
                tensor = stored.get_tensor(name)
                if tensor.dtype not in WIDTH:
                    raise ModelError(f"{file}: {name} is {tensor.dtype}; digests are of bfloat16 and float32 weights")
                dtype = str(tensor.dtype).removeprefix("torch.")
                rows.append((WeightSpec(name, dtype, tuple(tensor.shape)), unsigned(int(bits_sum(tensor)))))
    if not rows:
        raise ModelError(f"{directory} has no *.safetensors to take the digest of")
    return combined_digest(rows)


def _dense(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _check(tensor: Tensor, start: int, strides: Sequence[int]) -> None:
    if tensor.dtype not in WIDTH:
        raise ValueError(f"digests are of bfloat16 and float32 weights, not of {tensor.dtype}")
    last = start + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    if last >= 2 ** (64 - WIDTH[tensor.dtype]):
        raise ValueError(f"position {last} of a {tensor.dtype} does not fit into 64 bits beside the element")


def _chunks(tensor: Tensor, start: int, strides: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of at most CHUNK elements, laid out flat, and the positions of their elements, int64 of the same length."""
    if tensor.is_contiguous() and tuple(strides) == _dense(tensor.shape):
        tensor, strides = tensor.view(-1), (1,)
    limit = CHUNK.get(tensor.device.type, CHUNK["cuda"])
    if tensor.numel() <= limit:
        if tensor.numel():
            yield tensor.reshape(-1), _positions(tensor.shape, start, strides, tensor.device)
        return
    rows = max(1, limit * len(tensor) // tensor.numel())
    for row in range(0, len(tensor), rows):
        part = tensor[row] if rows == 1 else tensor[row : row + rows]
        yield from _chunks(part, start + row * strides[0], strides[1:] if rows == 1 else strides)


def _positions(shape: Sequence[int], start: int, strides: Sequence[int], device: torch.device) -> Tensor:
    positions = torch.full((), start, dtype=torch.int64, device=device)
    for size, stride in zip(shape, strides, strict=True):
        steps = torch.arange(0, size * max(stride, 1), max(stride, 1), dtype=torch.int64, device=device)
        positions = positions[..., None] + (steps if stride else steps * 0)
    return positions.reshape(-1)


def _words(part: Tensor) -> Tensor:
    """The elements' bits as int64, not negative; new memory."""
    words = part.contiguous().view(INTEGER[part.dtype]).to(torch.int64)
    return words.bitwise_and_(2 ** WIDTH[part.dtype] - 1)


def _is_flushed(words: Tensor, dtype: torch.dtype) -> Tensor:
    return words.bitwise_and(EXPONENT[dtype]).eq_(0).bool() & (words != 0)


def _mixed(words: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of the mixed words, int64 []. Overwrites its arguments. Products and sums wrap around, as wanted."""
    words += positions.bitwise_left_shift_(WIDTH[dtype])
    words *= _signed(GAMMA)
    for shift, factor in ((30, FIRST), (27, SECOND)):
        words ^= (words >> shift).bitwise_and_(2 ** (64 - shift) - 1)  # int64 shifts copies of the sign in
        words *= _signed(factor)
    words ^= (words >> 31).bitwise_and_(2**33 - 1)
    return words.sum()


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
