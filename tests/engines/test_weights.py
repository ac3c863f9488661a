"""The parts of a weight sync: what each end is told, bounds on NCCL, IPC handles as plain data, the order of sleeping.

nccl and ipc transfers themselves need GPUs: those tests are at the end and are skipped without.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import inspect
import json
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from safetensors import safe_open
from torch.distributed import DistStoreError, PrefixStore, Store
from torch.multiprocessing.reductions import rebuild_cuda_tensor
from transformers import AutoModelForCausalLM

from actors.graph import ActorGraph
from s2l_ray.config import EngineConfig, SamplingConfig
from s2l_ray.errors import ConfigError
from s2l_ray.generation.engine import EngineSettings
from s2l_ray.generation.learner import LearnerEngine
from s2l_ray.generation.sleeping import fall_asleep, weight_sync_and_wake
from s2l_ray.gpu_check.workload import write_qwen3
from s2l_ray.vllm_bridge.ipc_sender import IpcSender
from s2l_ray.vllm_bridge.nccl_sender import NcclSender
from s2l_ray.weights import buckets
from s2l_ray.weights.buckets import Bucket, BufferPool, WeightSpec, checked, flat_views, plan_buckets
from s2l_ray.weights.gloo_receiver import receive
from s2l_ray.weights.gloo_sender import GlooSender
from s2l_ray.weights.messages import Invitation, merge_chunks, update_info
from s2l_ray.weights.nccl_bounds import abort_after, agree_on_id, in_time
from s2l_ray.weights.rendezvous import BroadcastGroup, Meeting, listen, open_store
from s2l_ray.weights.sizes import BUCKET_BYTES, GPU_BUFFERS, GPU_CHUNK_BYTES
from tests.support.patience import PATIENCE_S
from tests.support.training_models import make_trainer

SPECS = [WeightSpec("a", "float32", (2,)), WeightSpec("b", "bfloat16", (4,)), WeightSpec("c", "bfloat16", (5, 6))]


# ---- buckets ----


class Source:
    """Weights that are there whole, in the order of `SPECS`."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def __iter__(self):
        return iter(self.tensors.items())

    def read(self, bucket: Bucket, targets: list[torch.Tensor]) -> None:
        for piece, target in zip(bucket, targets, strict=True):
            target.copy_(self.tensors[piece.spec.name].flatten()[piece.start : piece.stop])


def test_buckets_by_hand():
    """8 + 8 bytes fit into 16; 60 bytes are cut over four buckets; what comes after starts a new one."""
    cut = [[(p.spec.name, p.start, p.stop) for p in bucket] for bucket in plan_buckets([*SPECS, SPECS[1]], limit=16)]
    assert cut[0] == [("a", 0, 2), ("b", 0, 4)]
    assert cut[1:5] == [[("c", 0, 8)], [("c", 8, 16)], [("c", 16, 24)], [("c", 24, 30)]]
    assert cut[5:] == [[("b", 0, 4)]]
    buffer = torch.zeros(16, dtype=torch.uint8)
    for view, value in zip(flat_views(plan_buckets(SPECS, limit=16)[0], buffer), (1.0, 2.0), strict=True):
        view.fill_(value)
    assert buffer.tolist() == [0, 0, 128, 63] * 2 + [0, 64] * 4  # 1.0 in float32, 2.0 in bfloat16; low bytes first
    with pytest.raises(RuntimeError, match="a starts at byte 2, off its alignment"):
        odd = WeightSpec("o", "bfloat16", (1,))
        flat_views(plan_buckets([odd, SPECS[0]])[0], torch.zeros(10, dtype=torch.uint8))


def test_a_buffer_is_used_again_when_no_view_of_it_is_left():
    pool = BufferPool(16)
    first = pool.take(16)
    kept = first.view(torch.float32)[1:2]
    del first
    kept.fill_(5.0)
    pool.take(8).fill_(0)
    assert pool.made == 2
    assert kept.item() == 5.0
    del kept
    both = pool.take(16), pool.take(16)
    assert pool.made == 2
    assert both[0].data_ptr() != both[1].data_ptr()


def test_what_arrives_is_what_was_sent_even_if_it_is_kept(monkeypatch: pytest.MonkeyPatch):
    """Through a real group, with buckets of 16 bytes: three small tensors, then one that is cut, then small ones."""
    monkeypatch.setattr(buckets.plan_buckets, "__defaults__", (16,))
    specs = [WeightSpec(f"t{i}", "bfloat16", (20, 3) if i == 3 else (4, 1)) for i in range(9)]
    source = Source(**{s.name: torch.full(s.shape, float(i), dtype=torch.bfloat16) for i, s in enumerate(specs)})
    sender = GlooSender(specs, 0, "127.0.0.1", PATIENCE_S)
    meeting = sender.listen()
    forming = threading.Thread(target=sender.form, args=("weights-0", 2))
    forming.start()
    group = BroadcastGroup(open_store(meeting, PATIENCE_S), "weights-0", 1, 2, "127.0.0.1", PATIENCE_S)
    forming.join()
    for keep in (False, True):
        pool, kept, seen = BufferPool(16), [], {}
        sending = threading.Thread(target=sender.send, args=(source,))
        sending.start()
        for tensors in receive(group, specs, pool):
            seen |= {name: tensor.clone() for name, tensor in tensors}
            kept += tensors if keep else []
        sending.join()
        for name, tensor in (*seen.items(), *kept):
            assert torch.equal(tensor, source.tensors[name])
        assert list(seen) == [s.name for s in specs]
        # Two and one of eight bytes before the cut tensor, then two, two and one; kept ones are not used again.
        assert pool.made == 5 if keep else pool.made <= 3
    sender.close()


def test_a_stream_that_is_not_what_was_declared_is_refused():
    b = ("b", torch.zeros(4, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="the weight stream yields b"):
        list(checked(iter([b]), SPECS[:1]))
    with pytest.raises(ValueError, match=r"yields b torch.float32"):
        list(checked(iter([("b", torch.zeros(4))]), SPECS[1:2]))
    with pytest.raises(ValueError, match="ends where .*name='c'.*was declared"):  # it ends early
        list(checked(iter([b]), SPECS[1:]))


# ---- what a weight sync takes of the trainer's memory ----

QWEN = {
    "vocab_size": 8_191,  # odd: the ranks' shares differ
    "hidden_size": 512,
    "intermediate_size": 4_096,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
LAYER_BYTES = 2 * (512 * (8 + 4 + 4 + 8) * 64 + 3 * 512 * 4_096 + 2 * 512 + 2 * 64)


def resident(kind: str) -> int:
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" the most since `clear_refs` was written."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def send(model_dir: str, rank: int, ranks: int, store: Store) -> int:
    """A weight sync, as one of `ranks` trainer ranks. Returns the bytes that the process took for it at its most."""
    joined = {"rank": rank, "world_size": ranks, "store": PrefixStore(f"trainer {ranks}", store)}
    trainer = make_trainer(model_dir, dtype="bfloat16", **joined)
    specs = trainer.weight_specs()
    sender = GlooSender([WeightSpec(*row) for row in specs], rank, "127.0.0.1", PATIENCE_S)
    if rank == 0:
        store.set(f"receivers {ranks}", json.dumps([dataclasses.astuple(sender.listen()), specs]))
        sender.form("weights", 2)
    ctypes.CDLL(None).malloc_trim(0)  # or memory that loading the model left would be taken again, unseen
    Path("/proc/self/clear_refs").write_text("5")
    resting = resident("VmRSS")
    sender.send(trainer.weights())
    peak = resident("VmHWM")
    sender.close()
    trainer.close()
    return peak - resting


def take(model_dir: str, ranks: int, meeting: Meeting) -> None:
    """Receive what `send` sends, and compare it with what is on disk."""
    store = open_store(meeting, PATIENCE_S)  # its own: a wait would keep others from the connection
    sender, specs = json.loads(store.get(f"receivers {ranks}"))
    group = BroadcastGroup(open_store(Meeting(*sender), PATIENCE_S), "weights", 1, 2, "127.0.0.1", PATIENCE_S)
    with safe_open(Path(model_dir) / "model.safetensors", framework="pt") as stored:
        left = set(stored.keys())
        for tensors in receive(group, [WeightSpec(n, d, tuple(s)) for n, d, s in specs], BufferPool()):
            for name, tensor in tensors:
                assert torch.equal(tensor, stored.get_tensor(name))
                left.remove(name)
    assert not left


def sync_process(rank: int, model_dir: str, meeting: Meeting, out: str) -> None:
    """Process 0 sends alone, then with process 1, which also receives."""
    store = open_store(meeting, PATIENCE_S)
    taken = []
    for ranks in (1, 2):
        with ThreadPoolExecutor(1) as thread:
            receiving = thread.submit(take, model_dir, ranks, meeting) if rank == 1 else None
            if rank < ranks:
                taken.append(send(model_dir, rank, ranks, store))
            if receiving is not None:
                receiving.result()
    if rank == 0:
        Path(out).write_text(json.dumps(taken))


def test_a_weight_sync_takes_two_buckets_and_less_than_a_layer_of_the_trainers_memory(tmp_path: Path):
    model_dir = write_qwen3(tmp_path / "model", dtype=torch.bfloat16, **QWEN)
    listener = listen("127.0.0.1")
    store = open_store(listener.meeting, PATIENCE_S, listener)
    arguments = (model_dir, listener.meeting, str(tmp_path / "taken.json"))
    spawned = mp.spawn(sync_process, args=arguments, nprocs=2, join=False)
    while not spawned.join(120):
        pass
    del store
    for taken in json.loads((tmp_path / "taken.json").read_text()):
        assert 1.5 * BUCKET_BYTES < taken < 2 * BUCKET_BYTES + LAYER_BYTES


# ---- messages in the forms that vLLM takes ----


def engine_of(transfer: str):
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from s2l_ray.vllm_bridge.worker import backend_name

    kind = WeightTransferEngineFactory._registry[backend_name(transfer)]()
    return object.__new__(kind)  # without a model: for its parsing alone


@pytest.mark.parametrize("transfer", ["gloo", "nccl"])
def test_vllm_parses_invitation_and_update(transfer: str):
    engine = engine_of(transfer)
    invitation = Invitation("127.0.0.1", 1234, "secret", "weights-7", 3, 5, 60.0)
    assert engine.parse_init_info(dataclasses.asdict(invitation)) == invitation
    info = engine.parse_update_info(update_info(SPECS))
    assert info.names == ["a", "b", "c"] and info.dtype_names == ["float32", "bfloat16", "bfloat16"]
    assert info.shapes == [[2], [4], [5, 6]]


def test_nccl_members_are_told_vllms_unique_id_and_the_chunks_that_are_sent():
    from s2l_ray.vllm_bridge.nccl_engine import vllm_init_info

    unique_id = bytes(range(128))
    info = vllm_init_info(Invitation("127.0.0.1", 1234, "secret", "weights-7", 3, 5, 60.0), unique_id)
    assert info.nccl_unique_id_bytes == unique_id
    assert (info.rank_offset, info.world_size) == (3, 5)
    # Both ends cut by vLLM's rule; that these agree is all it takes.
    assert (info.packed, info.packed_buffer_size_bytes, info.packed_num_buffers) == (True, GPU_CHUNK_BYTES, GPU_BUFFERS)


def ipc_handle(device: int) -> tuple:
    """A handle in torch's layout, as `reduce_tensor` makes it of a packed buffer of 1000 bytes on GPU `device`."""
    classes = (torch.Tensor, torch.Size([1000]), (1,), 0, torch.storage.TypedStorage, torch.uint8)
    return (*classes, device, b"\x01\xffhandle", 2**21, 512, False, b"\x02counter", 3, b"\x03event", True)


def test_an_ipc_handle_survives_as_plain_data_on_vllms_wire():
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    from s2l_ray.vllm_bridge.ipc_engine import plain_handle

    assert os.environ.get("VLLM_ALLOW_INSECURE_SERIALIZATION", "0") == "0"
    parts = [
        {
            "names": ["a", "b"],
            "dtype_names": ["float32", "bfloat16"],
            "shapes": [[2], [4]],
            "tensor_sizes": [8, 8],
            "handles": {f"GPU-{gpu}": plain_handle(ipc_handle(gpu))},
        }
        for gpu in (0, 1)
    ]
    sent = merge_chunks(parts)
    received = MsgpackDecoder().decode(MsgpackEncoder().encode(sent))
    info = engine_of("ipc").parse_update_info(received).for_vllm()
    assert info.ipc_handles == {"GPU-0": ipc_handle(0), "GPU-1": ipc_handle(1)}
    assert info.names == ["a", "b"] and info.tensor_sizes == [8, 8]
    # vLLM overwrites this one with the receiver's device.
    assert list(inspect.signature(rebuild_cuda_tensor).parameters)[6] == "storage_device"


def test_only_handles_on_packed_buffers_and_ranks_in_step():
    from s2l_ray.vllm_bridge.ipc_engine import plain_handle

    with pytest.raises(ValueError, match="not a handle on a packed buffer"):
        plain_handle((torch.nn.Parameter, *ipc_handle(0)[1:]))
    with pytest.raises(ValueError, match="different tensors"):
        merge_chunks([{"names": ["a"], "handles": {}}, {"names": ["b"], "handles": {}}])


@pytest.mark.parametrize("variable", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_expandable_segments_do_not_go_with_ipc(monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv(variable, "max_split_size_mb:64,expandable_segments:True")
    with pytest.raises(ConfigError, match="expandable_segments"):
        IpcSender(SPECS)


# ---- bounds on NCCL ----


def agree(names: list[str], timeout_s: float) -> list:
    """One thread per rank that comes; what each of a group of three got."""
    listener = listen("127.0.0.1")
    server = open_store(listener.meeting, timeout_s, listener)
    outcome: list = [None] * len(names)

    def come(rank: int, name: str) -> None:
        store = server if rank == 0 else open_store(listener.meeting, timeout_s)
        try:
            outcome[rank] = agree_on_id(store, name, rank, 3, (lambda: b"the id") if rank == 0 else None)
        except DistStoreError as error:
            outcome[rank] = error

    threads = [threading.Thread(target=come, args=member) for member in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def test_nobody_goes_on_before_all_members_are_there():
    assert agree(["weights-1"] * 3, PATIENCE_S) == [b"the id"] * 3
    for outcome in agree(["weights-1", "weights-1", "weights-0"], 1):  # a latecomer of the group before
        assert isinstance(outcome, DistStoreError)


def test_what_takes_too_long_is_aborted():
    aborted = threading.Event()
    with pytest.raises(TimeoutError, match="not all members took part"), abort_after(0.1, aborted.set):
        assert aborted.wait(PATIENCE_S)  # as a kernel that ends only because its communicator was aborted
    aborted.clear()
    with abort_after(PATIENCE_S, aborted.set):
        pass
    with pytest.raises(KeyError), abort_after(PATIENCE_S, aborted.set):
        raise KeyError("its own error")
    assert not aborted.is_set()


def test_what_forms_too_late_is_undone():
    undone: queue.SimpleQueue[int] = queue.SimpleQueue()
    assert in_time(lambda: 5, PATIENCE_S, undone.put) == 5
    with pytest.raises(KeyError):
        in_time(lambda: {}["nothing"], PATIENCE_S, undone.put)
    late = threading.Event()
    with pytest.raises(TimeoutError, match="did not form"):
        in_time(lambda: late.wait(PATIENCE_S) and 6, 0.1, undone.put)
    assert undone.empty()
    late.set()
    assert undone.get(timeout=PATIENCE_S) == 6


# ---- the order of sleeping ----


def test_old_weights_new_weights_and_kv_cache_are_never_held_at_once():
    """Replays the calls on a ledger of what the engines hold."""
    held = {"explorer": {"weights", "kv_cache"}, "learner": {"weights", "kv_cache"}}
    seen = []

    def engines(role: str):
        def call(method: str, memory: str | None = None) -> None:
            seen.append((role, method, memory))
            if method == "sleep":
                held[role].clear()
            else:
                assert memory not in held[role]
                held[role].add(memory)

        return call

    def weight_sync() -> str:
        assert held == {"explorer": set(), "learner": {"weights"}}
        return "report"

    # Of a run's first version, everything is awake before.
    assert weight_sync_and_wake(engines("explorer"), engines("learner"), weight_sync) == "report"
    seen.clear()
    fall_asleep(engines("explorer"), engines("learner"))
    assert held == {"explorer": set(), "learner": set()}  # while the trainer works

    assert weight_sync_and_wake(engines("explorer"), engines("learner"), weight_sync) == "report"
    assert held == {"explorer": {"weights", "kv_cache"}, "learner": {"weights", "kv_cache"}}
    assert [call for call in seen if call[0] == "learner"] == [
        ("learner", "sleep", None),
        ("learner", "sleep", None),  # it is asleep already
        ("learner", "wake", "weights"),
        ("learner", "wake", "kv_cache"),
    ]


def test_engines_sleep_before_the_trainer_loads_a_checkpoint(monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[str, ...]] = []

    class Trainer:
        def load(self, directory: str) -> None:
            calls.append(("trainer", "load", directory))

    graph = object.__new__(ActorGraph)
    graph.trainer = Trainer()
    graph._supervision = SimpleNamespace(await_sleepers=lambda: None)
    roles = ("explorer", "learner")
    monkeypatch.setattr(
        graph, "_sleepers", lambda: [lambda *call, role=role: calls.append((role, *call)) for role in roles]
    )
    graph.load("checkpoint")
    assert calls == [("explorer", "sleep"), ("learner", "sleep"), ("trainer", "load", "checkpoint")]


# ---- on GPUs ----


def gpu_engine(model: Path, transfer: str, **settings) -> LearnerEngine:
    return LearnerEngine(
        EngineSettings(
            model=str(model),
            source="learner",
            engine=EngineConfig(enforce_eager=True),
            kv_cache_bytes=10**8,
            sampling={"train": SamplingConfig()},
            max_tokens=8,
            max_model_len=64,
            dtype="bfloat16",
            trust_remote_code=False,
            weight_transfer=transfer,
            load_weights=False,
            **settings,
        ),
        {},
    )


def policy(model: Path) -> tuple[torch.nn.Module, list[WeightSpec]]:
    """A trainer's weights on GPU 0."""
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to("cuda:0")
    return policy, [WeightSpec(n, "bfloat16", tuple(p.shape)) for n, p in policy.named_parameters()]


def source(policy: torch.nn.Module) -> Source:
    return Source(**{name: weight.detach() for name, weight in policy.named_parameters()})


def check_logprobs(runner: asyncio.Runner, engine: LearnerEngine, policy: torch.nn.Module) -> None:
    text = np.arange(3, 20)
    with torch.no_grad():
        ids = torch.as_tensor(text, device="cuda:0")[None]
        reference = torch.log_softmax(policy(ids).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None])[:, 0]
    np.testing.assert_allclose(runner.run(engine.score(text)), reference.cpu(), rtol=0.02, atol=0.08)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_ipc_into_an_engine_that_sleeps_on_the_trainers_gpu(family):
    with asyncio.Runner() as runner:
        engine = gpu_engine(family.large, "ipc", sleep=True)
        model, specs = policy(family.large)
        sender = IpcSender(specs)

        def weight_sync(version: int) -> None:
            runner.run(engine.begin_weight_sync())
            sender.begin(source(model))
            while (chunk := sender.next_chunk()) is not None:
                runner.run(engine.receive(merge_chunks([chunk])))
            runner.run(engine.finish_weight_sync(version))
            sender.end()

        def learners(method: str, *args) -> None:
            runner.run(getattr(engine, method)(*args))

        try:
            weight_sync(0)
            check_logprobs(runner, engine, model)
            for version in (1, 2):
                awake = torch.cuda.mem_get_info()[0]
                fall_asleep(lambda *_: None, learners)
                assert torch.cuda.mem_get_info()[0] > awake + 9 * 10**7  # the KV cache's at least
                with torch.no_grad():
                    model.lm_head.weight.mul_(2.0)
                weight_sync_and_wake(lambda *_: None, learners, lambda version=version: weight_sync(version))
                check_logprobs(runner, engine, model)
        finally:
            runner.run(engine.close())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_nccl_into_an_engine_on_a_gpu_of_its_own(family, monkeypatch: pytest.MonkeyPatch):
    with asyncio.Runner() as runner:
        model, specs = policy(family.large)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # for the engine's process; this one has its GPU already
        engine = gpu_engine(family.large, "nccl")
        sender = NcclSender(specs, 0, "127.0.0.1", PATIENCE_S)
        try:
            for version in range(2):  # a new group for each, as after a change of membership
                meeting = sender.listen()
                forming = threading.Thread(target=sender.form, args=(f"weights-{version}", 2))
                forming.start()
                runner.run(engine.join(Invitation.to(meeting, f"weights-{version}", 1, 2, PATIENCE_S)))
                forming.join()
                sending = threading.Thread(target=sender.send, args=(source(model),))
                sending.start()
                runner.run(engine.weight_sync(version, update_info(specs)))
                sending.join()
                check_logprobs(runner, engine, model)
                with torch.no_grad():
                    model.lm_head.weight.mul_(2.0)
        finally:
            sender.close()
            runner.run(engine.close())
