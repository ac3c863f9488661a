"""Weights over nccl without a GPU: vLLM's own producer and consumer, in our two ends, on tensors of the CPU.

Streams are stood in for by nothing, and the wire by a queue that, as NCCL, knows of a message only how long it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from typing import Any

import pytest
import torch

from s2l_ray.vllm_bridge import calls
from s2l_ray.vllm_bridge.nccl_sender import NcclSender
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.messages import Invitation, merge_chunks, update_info
from s2l_ray.weights.sizes import GPU_BUFFERS

pytestmark = pytest.mark.filterwarnings("ignore:Tensor 'layer:UserWarning")  # vLLM's, of one longer than a chunk
CHUNK = 64
"""Bytes, in place of GPU_CHUNK_BYTES."""
INVITATION = Invitation("127.0.0.1", 1, "secret", "learner-1", 1, 2, 30.0)


class Stream:
    def synchronize(self) -> None: ...


class Wire:
    """A communicator of two, one after the other."""

    def __init__(self) -> None:
        self.sent: deque[torch.Tensor] = deque()
        self.sizes: list[int] = []

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        assert src == 0
        self.sizes.append(tensor.numel())
        self.sent.append(tensor.clone())

    def destroy(self) -> None: ...


class OtherEnd:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        arrived = self._wire.sent.popleft()
        assert src == 0 and tensor.numel() == arrived.numel(), (
            "ends that cut chunks differently hang, or mix weights up"
        )
        tensor.copy_(arrived)

    def destroy(self) -> None: ...


class Model:
    def __init__(self) -> None:
        self.loaded: list[tuple[str, torch.Tensor]] = []

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        self.loaded += [(name, tensor.clone()) for name, tensor in weights]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer import packed_tensor

    from s2l_ray.vllm_bridge import nccl_engine, nccl_sender

    monkeypatch.setattr(packed_tensor, "_get_streams", lambda device, count: tuple(Stream() for _ in range(count)))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    for end in (nccl_engine, nccl_sender):
        monkeypatch.setattr(end, "GPU_CHUNK_BYTES", CHUNK)


def weights_of(sizes: list[int], dtypes: list[torch.dtype]) -> list[tuple[str, torch.Tensor]]:
    """Tensors of so many bytes, in types that take turns; their numbers tell them apart."""
    found = []
    for number, size in enumerate(sizes):
        dtype = dtypes[number % len(dtypes)]
        values = torch.arange(size // dtype.itemsize) + 10 * number
        found.append((f"layer.{number}.weight", values.to(dtype).view(-1, 2 if size // dtype.itemsize % 2 == 0 else 1)))
    return found


def received(weights: list[tuple[str, torch.Tensor]]) -> tuple[list[tuple[str, torch.Tensor]], list[int]]:
    """What an engine loads of what the trainer sends, and the bytes of each chunk."""
    from s2l_ray.vllm_bridge.nccl_engine import BoundedNcclEngine, vllm_init_info

    specs = [WeightSpec(name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in weights]
    wire = Wire()
    sender = NcclSender(specs, 0, "127.0.0.1", 30.0)
    sender._group = wire
    sender._broadcast(iter(weights))
    engine = object.__new__(BoundedNcclEngine)
    told = vllm_init_info(INVITATION, bytes(128))
    engine.packed, engine.packed_buffer_size_bytes = told.packed, told.packed_buffer_size_bytes
    engine.packed_num_buffers, engine._timeout_s = told.packed_num_buffers, INVITATION.timeout_s
    engine.model, engine.model_update_group, engine.device = Model(), OtherEnd(wire), torch.device("cpu")
    engine.receive_weights(engine.parse_update_info(over_msgpack(calls.update(update_info(specs)))[1][0]))
    assert not wire.sent
    return engine.model.loaded, wire.sizes


def over_msgpack(call: calls.WorkerCall) -> Any:
    """A call as a worker of an engine in a process of its own gets it: by vLLM's encoder and decoder."""
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    message = (0, 1, "collective_rpc", ("try_weight_transfer", None, ((call,),), None))
    _, _, _, (_, _, ((arrived,),), _) = MsgpackDecoder().decode(MsgpackEncoder().encode(message))
    return arrived


BOUNDARIES = {
    "one tensor, shorter than a chunk": ([8], [8]),
    "exactly a chunk": ([CHUNK], [CHUNK]),
    "a chunk and what is longer by one element": ([CHUNK, 4], [CHUNK + 4]),
    "a tensor longer than a chunk": ([3 * CHUNK, 4], [3 * CHUNK, 4]),
    "the last one alone": ([CHUNK, 8, 8], [CHUNK + 8, 8]),
    "a chunk's end is the stream's end": ([40, 40, 40, 40], [80, 80]),
    "more chunks than buffers": ([68] * (2 * GPU_BUFFERS + 1), [68] * (2 * GPU_BUFFERS + 1)),
    "as many chunks as buffers": ([68] * GPU_BUFFERS, [68] * GPU_BUFFERS),
}


@pytest.mark.parametrize("case", BOUNDARIES)
@pytest.mark.parametrize("dtypes", [[torch.bfloat16], [torch.float32, torch.bfloat16]], ids=["bfloat16", "both"])
def test_engines_load_what_the_trainer_sent(case: str, dtypes: list[torch.dtype], small_chunks: None) -> None:
    sizes, chunks = BOUNDARIES[case]
    sent = weights_of(sizes, dtypes)
    loaded, found = received(sent)
    assert found == chunks
    assert [name for name, _ in loaded] == [name for name, _ in sent]
    for (_, ours), (name, theirs) in zip(sent, loaded, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name


def test_every_length_of_three_tensors_around_a_chunk_s_end(small_chunks: None) -> None:
    for first in range(4, CHUNK + 9, 4):
        for second in range(4, CHUNK + 9, 4):
            sent = weights_of([first, second, 12], [torch.bfloat16])
            loaded, chunks = received(sent)
            assert all(torch.equal(a, b) for (_, a), (_, b) in zip(sent, loaded, strict=True)), (first, second)
            assert sum(chunks) == first + second + 12


# ---- what else reaches a worker by message --------------------------------------------------------------------------


def test_an_invitation_arrives_as_it_was() -> None:
    method, (arrived,) = over_msgpack(calls.join(INVITATION))
    assert method == "init_weight_transfer_engine" and Invitation(**arrived) == INVITATION


def test_a_description_over_gloo_arrives_as_it_was() -> None:
    from s2l_ray.vllm_bridge.gloo_engine import GlooUpdateInfo

    info = update_info([WeightSpec("norm.weight", "float32", (3,)), WeightSpec("w", "bfloat16", (2, 5))])
    _, (arrived,) = over_msgpack(calls.update(info))
    assert dataclasses.asdict(GlooUpdateInfo(**arrived)) == info


def test_a_chunk_over_ipc_arrives_as_it_was() -> None:
    """Handles have bytes, numbers and tuples; each rank shows the same tensors in a buffer on its own GPU."""
    from s2l_ray.vllm_bridge.ipc_engine import FIXED, PARAMETERS, PlainUpdateInfo, plain_handle, torch_handle

    others = {
        "tensor_size": (128,),
        "tensor_stride": (1,),
        "tensor_offset": 0,
        "storage_device": 1,
        "storage_handle": b"\x00\xffhandle",
        "storage_size_bytes": 128,
        "storage_offset_bytes": 2**33,
        "requires_grad": False,
        "ref_counter_handle": b"/torch_1",
        "ref_counter_offset": 3,
        "event_handle": b"",
        "event_sync_required": True,
    }
    handle = tuple((FIXED | others)[name] for name in PARAMETERS)
    tensors = {"names": ["w"], "dtype_names": ["bfloat16"], "shapes": [[8, 8]], "tensor_sizes": [128]}
    shown = [tensors | {"handles": {f"GPU-{rank}": plain_handle(handle)}} for rank in (0, 1)]
    _, (arrived,) = over_msgpack(calls.update(merge_chunks(shown)))
    found = PlainUpdateInfo(**arrived)
    assert {gpu: torch_handle(plain) for gpu, plain in found.handles.items()} == {"GPU-0": handle, "GPU-1": handle}
    assert found.for_vllm().ipc_handles["GPU-1"] == handle
