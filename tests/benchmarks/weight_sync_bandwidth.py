"""A weight sync's bandwidth against a bare gloo broadcast of the same bytes, over loopback, in turn.

All are groups of two processes, and seconds are the sender's, from the moment at which both are there:

- bare: one broadcast of one tensor, or one after the other in tensors of a bucket's size, from and into memory that is
  used again. The faster of the two is what ours is compared with.
- broadcast: a trainer rank gathers, casts (float32 to bfloat16), packs and sends; the receiver takes tensors out of
  the buckets and does nothing with them.
- loading: the same into a real vLLM engine, which loads them meanwhile and so holds the sender up.
- whole: that engine's weight sync, from the call to its return: also pausing, preparing the reload, finishing it,
resuming.
- verify: what cluster.verify_weights adds: trainer and engine take the digests of what they hold, at the same time.

On two cores sender, receiver and loader share them. What vLLM does with the weights (a copy into each layer's new
tensor, oneDNN's packed copy, one more for the embedding) is most of the last two, and its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.protocol import Result

MODELS = {
    "1m": {
        "vocab_size": 111, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "tie_word_embeddings": False,
    },
    "135m": {
        "vocab_size": 32_768, "hidden_size": 768, "intermediate_size": 2_304, "num_hidden_layers": 16,
        "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""The first is the embedded family's large model."""
ROUNDS = 15
TIMEOUT_S = 60.0


class Seconds(NamedTuple):
    """Of one round."""

    bare_one: float
    bare_buckets: float
    broadcast: float
    gather: float
    """Of the broadcast: spent gathering and packing, most of it while something was on the wire."""
    loading: float
    stall: float
    whole: float
    verify: float


def run() -> list[Result]:
    from s2l_ray.config import EngineConfig
    from s2l_ray.vllm_bridge.environment import engine_environment

    os.environ.update(engine_environment(EngineConfig(enforce_eager=True)))
    results: list[Result] = []
    for name, shape in MODELS.items():
        with tempfile.TemporaryDirectory() as directory:
            nbytes, rounds = measure(_model(Path(directory), shape))
        middle = Seconds(*map(statistics.median, zip(*rounds, strict=True)))
        _print(name, nbytes, middle)
        results += _results(name, nbytes, middle)
    return results


def _results(name: str, nbytes: int, seconds: Seconds) -> list[Result]:
    bare = min(seconds.bare_one, seconds.bare_buckets)
    return [
        Result(f"weight_sync_broadcast_over_bare_gloo_{name}", bare / seconds.broadcast, 0.7, "ratio"),
        Result(f"weight_sync_broadcast_while_vllm_loads_over_bare_gloo_{name}", bare / seconds.loading, None, "ratio"),
        Result(f"weight_sync_whole_over_bare_gloo_{name}", bare / seconds.whole, None, "ratio"),
        Result(f"weight_sync_broadcast_gb_per_second_{name}", nbytes / seconds.broadcast / 1e9, None, "GB/s"),
        Result(f"weight_sync_stall_seconds_{name}", seconds.stall, None, "s"),
        Result(f"weight_sync_verified_over_not_{name}", 1 + seconds.verify / seconds.whole, None, "ratio"),
    ]


def _print(name: str, nbytes: int, seconds: Seconds) -> None:
    print(f"   {name}: {nbytes / 1e6:.1f} MB, medians of {ROUNDS} rounds", flush=True)
    for what, value in seconds._asdict().items():
        print(f"   {what:>12} {value * 1e3:8.1f} ms {nbytes / value / 1e9:8.2f} GB/s", flush=True)


def _model(directory: Path, shape: dict[str, Any]) -> str:
    """A random model with a tokenizer, which the engine wants to see."""
    import torch

    from s2l_ray.gpu_check.workload import write_qwen3
    from s2l_ray.miniature.tokenizer import build_tokenizer

    build_tokenizer().save_pretrained(directory)
    return write_qwen3(directory, dtype=torch.bfloat16, **shape)


def measure(model_dir: str) -> tuple[int, list[Seconds]]:
    """Bytes of the weights, and the seconds of every round; the first round warmed up."""
    from s2l_ray.weights.buckets import WeightSpec, bucket_bytes, plan_buckets

    trainer = _trainer(model_dir)
    specs = [WeightSpec(*row) for row in trainer.weight_specs()]
    nbytes = sum(spec.nbytes for spec in specs)
    sizes = [bucket_bytes(bucket) for bucket in plan_buckets(specs)]
    peer = Peer(specs, trainer)
    engine = Engine(model_dir, specs, trainer)
    try:
        rounds = []
        for number in range(ROUNDS + 1):
            one, buckets = peer.bare([nbytes]), peer.bare(sizes)
            sent = peer.receive()
            rounds.append(Seconds(one, buckets, sent.broadcast_s, sent.gather_s, *engine.weight_sync(number)))
    finally:
        engine.close()
        peer.close()
        trainer.close()
    return nbytes, rounds[1:]


def _trainer(model_dir: str) -> Any:
    from s2l_ray.config import ObjectiveConfig, TrainerConfig
    from s2l_ray.training.trainer import PolicyTrainer

    return PolicyTrainer(
        model_dir, trainer=TrainerConfig(), objective=ObjectiveConfig(), dtype="bfloat16", temperature=1.0,
        timeout_s=TIMEOUT_S, device="cpu",
    )  # fmt: skip


class Peer:
    """A process that receives: bare broadcasts, and weights that it does nothing with."""

    def __init__(self, specs: list[Any], trainer: Any) -> None:
        from s2l_ray.weights.gloo_sender import GlooSender

        self._trainer = trainer
        self._sender = GlooSender(specs, 0, "127.0.0.1", TIMEOUT_S)
        address = self._sender.listen()
        context = multiprocessing.get_context("spawn")
        self._commands, theirs = context.Pipe()
        self._process = context.Process(target=receive_as_told, args=(address, specs, theirs), daemon=True)
        self._process.start()
        self._sender.form("bare", 2)
        self._memory: dict[int, Any] = {}

    def bare(self, sizes: list[int]) -> float:
        """Seconds to broadcast so many bytes after so many bytes."""
        import torch

        memory = self._memory.setdefault(max(sizes), torch.ones(max(sizes), dtype=torch.uint8))
        self._commands.send(sizes)
        self._sender._group.meet()
        begin = time.perf_counter()
        for size in sizes:
            self._sender._group.broadcast(memory[:size])
        return time.perf_counter() - begin

    def receive(self) -> Any:
        """Send the trainer's weights, as in a weight sync."""
        self._commands.send("weights")
        return self._sender.send(self._trainer.weights())

    def close(self) -> None:
        self._commands.send(None)
        self._process.join(TIMEOUT_S)
        self._sender.close()


def receive_as_told(address: Any, specs: list[Any], commands: Connection) -> None:
    import torch

    from s2l_ray.weights.buckets import BufferPool
    from s2l_ray.weights.gloo_receiver import receive
    from s2l_ray.weights.rendezvous import BroadcastGroup, open_store

    torch.set_num_threads(1)
    group = BroadcastGroup(open_store(address, TIMEOUT_S), "bare", 1, 2, "127.0.0.1", TIMEOUT_S)
    pool = BufferPool()
    memory: dict[int, torch.Tensor] = {}
    while (sizes := commands.recv()) is not None:
        if sizes == "weights":
            for _ in receive(group, specs, pool):
                pass
            continue
        target = memory.setdefault(max(sizes), torch.empty(max(sizes), dtype=torch.uint8))
        group.meet()
        for size in sizes:
            group.broadcast(target[:size])


class Engine:
    """A vLLM engine and the sender of its weights."""

    def __init__(self, model_dir: str, specs: list[Any], trainer: Any) -> None:
        from s2l_ray.config import EngineConfig, SamplingConfig
        from s2l_ray.generation.engine import EngineSettings
        from s2l_ray.generation.learner import LearnerEngine
        from s2l_ray.weights.gloo_sender import GlooSender
        from s2l_ray.weights.messages import Invitation, update_info

        self._trainer, self._specs = trainer, specs
        self._update = update_info(specs)
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1)
        settings = EngineSettings(
            model=model_dir, source="learner", engine=EngineConfig(enforce_eager=True, max_num_seqs=8),
            sampling={"train": SamplingConfig()}, max_tokens=8, max_model_len=64, dtype="bfloat16",
            trust_remote_code=False, weight_transfer="gloo", load_weights=False, kv_cache_bytes=10**8,
        )  # fmt: skip
        self._engine = self._runner.run(_call(lambda: LearnerEngine(settings, {})))
        self._sender = GlooSender(specs, 0, "127.0.0.1", TIMEOUT_S)
        meeting = self._sender.listen()
        forming = self._thread.submit(self._sender.form, "engine", 2)
        self._runner.run(self._engine.join(Invitation.to(meeting, "engine", 1, 2, TIMEOUT_S)))
        forming.result()
        if problems := self._runner.run(self._engine.describe_weights(specs)):
            raise RuntimeError(problems[0])

    def weight_sync(self, version: int) -> tuple[float, float, float, float]:
        """Seconds of the broadcast, of the stall, of all, and of the verification afterwards."""
        from s2l_ray.weights.held import checked_digest

        begin = time.perf_counter()
        sending = self._thread.submit(lambda: self._sender.send(self._trainer.weights()))
        times = self._runner.run(self._engine.weight_sync(version, self._update))
        whole = time.perf_counter() - begin
        broadcast_s = sending.result().broadcast_s
        begin = time.perf_counter()
        computing = self._thread.submit(lambda: self._trainer.weights().digests())
        held = self._runner.run(self._engine.weight_digests())
        checked_digest(version, self._specs, computing.result(), {0: held})
        return broadcast_s, times.stall_s, whole, time.perf_counter() - begin

    def close(self) -> None:
        self._sender.close()
        self._runner.run(self._engine.close())
        self._runner.close()


async def _call(function: Callable[[], Any]) -> Any:
    return function()
