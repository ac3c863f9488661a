"""The receiving end of a gloo broadcast, without the loading of what arrives; needs torch only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import torch

from s2l_ray.weights.buckets import Bucket, BufferPool, WeightSpec, bucket_bytes, flat_views, plan_buckets
from s2l_ray.weights.rendezvous import BroadcastGroup

Tensors = list[tuple[str, torch.Tensor]]


def receive(group: BroadcastGroup, specs: Iterable[WeightSpec], buffers: BufferPool) -> Iterator[Tensors]:
    """Receive what `GlooSender` sends, bucket by bucket, as (name, whole tensor on the CPU), while the next arrives.

    The tensors are views of `buffers`: while one of them is kept, its buffer is not used again.

    Raises:
        RuntimeError: the sender is gone, or did not send within the group's timeout.
    """
    landings = _landings(plan_buckets(specs), buffers)
    group.meet()
    # Two are waited for, so that the wire never is; a third begins when the first of them is loaded.
    coming = deque((group.start_broadcast(buffer), tensors) for buffer, tensors in islice(landings, 2))
    while coming:
        arriving, tensors = coming.popleft()
        arriving.wait()
        if tensors:
            yield tensors
        del arriving, tensors
        coming.extend((group.start_broadcast(buffer), tensors) for buffer, tensors in islice(landings, 1))


def _landings(buckets: list[Bucket], buffers: BufferPool) -> Iterator[tuple[torch.Tensor, Tensors]]:
    """The buffer for each bucket, and the tensors that are whole once it has arrived.

    A tensor that is cut over several buckets is received into memory of its own.
    """
    large = torch.empty(0)
    for bucket in buckets:
        piece = bucket[0]
        if piece.is_whole:
            yield _landing(bucket, buffers)
            continue
        if piece.start == 0:
            large = torch.empty(piece.spec.numel, dtype=piece.spec.torch_dtype)
        is_last = piece.stop == piece.spec.numel
        yield large[piece.start : piece.stop].view(torch.uint8), _named(bucket, [large]) if is_last else []
        if is_last:
            large = torch.empty(0)


def _landing(bucket: Bucket, buffers: BufferPool) -> tuple[torch.Tensor, Tensors]:
    # A function of its own: the generator must not keep the buffer.
    buffer = buffers.take(bucket_bytes(bucket))
    return buffer, _named(bucket, flat_views(bucket, buffer))


def _named(bucket: Bucket, flat: list[torch.Tensor]) -> Tensors:
    return [(piece.spec.name, tensor.view(piece.spec.shape)) for piece, tensor in zip(bucket, flat, strict=True)]
