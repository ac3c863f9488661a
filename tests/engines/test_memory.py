"""The memory ledgers against what real updates allocate, and against sums by hand.

The trainer's are within 10% of what torch's allocator hands out in an update of one rank on a CPU; what engines
allocate is in test_memory_engine.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from s2l_ray.config import Config, parse_config
from s2l_ray.gpu_check.cpu_meter import AllocatedBytes, metered
from s2l_ray.kinds import Source, Transfer
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.memory import (
    TrainerMemory,
    engine_ledger,
    kv_bytes_per_token,
    kv_cache_bytes_for,
    trainer_ledger,
)
from s2l_ray.planner.search.fitting import ASLEEP_ITEMS
from s2l_ray.rollouts.records import Rollout, RolloutGroup, Verdict
from s2l_ray.training.trainer import PolicyTrainer
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.gloo_sender import GlooSender
from tests.support.patience import PATIENCE_S

PROMPT, RESPONSE = 32, 96
NARROW = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "tie_word_embeddings": True,
}
WIDE = NARROW | {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8}
BIG_VOCABULARY = NARROW | {"vocab_size": 32000, "tie_word_embeddings": False}


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def run_config(model: str, **changes: Any) -> Config:
    """A step of 4 prompts with 4 rollouts each, in two mini-batches of two micro-batches."""
    values: dict[str, Any] = {
        "models": {"learner": model, "explorer": model, "dtype": "float32"},
        "data": {"train": "problems.jsonl", "max_prompt_tokens": PROMPT},
        "rollout": {"group_size": 4, "prompts_per_step": 4, "max_tokens": RESPONSE},
        "objective": {"mini_batch_prompts": 2},
        "trainer": {"micro_batch_tokens": 4 * (PROMPT + RESPONSE), "logprob_chunk_tokens": 64},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values.setdefault(section, {})[name] = value
    return parse_config(values)


def longest_rollouts(config: Config, vocabulary: int) -> list[list[RolloutGroup]]:
    """The step's mini-batches, every prompt and response as long as it may be, no advantage 0."""
    rng = np.random.default_rng(0)

    def rollout(prompt: int, k: int) -> Rollout:
        return Rollout(
            prompt_id=str(prompt),
            source="explorer",
            model="small",
            weight_version=0,
            index=k,
            token_ids=rng.integers(0, vocabulary, RESPONSE).astype(np.int32),
            logprobs=np.full(RESPONSE, -4, np.float32),
            text="",
            finish_reason="stop",
            verdict=Verdict("right" if k % 2 else "wrong", float(k % 2)),
        )

    groups = []
    for p in range(config.rollout.prompts_per_step):
        ids = rng.integers(0, vocabulary, PROMPT).astype(np.int32)
        groups.append(RolloutGroup(str(p), ids, [rollout(p, k) for k in range(config.rollout.group_size)]))
    size = config.objective.mini_batch_prompts or len(groups)
    return [groups[i : i + size] for i in range(0, len(groups), size)]


def write_model(directory: Path, sizes: dict[str, Any], family: str, dtype: str) -> str:
    made = Qwen3ForCausalLM(Qwen3Config(**sizes)) if family == "qwen3" else LlamaForCausalLM(LlamaConfig(**sizes))
    made.to(getattr(torch, dtype)).save_pretrained(directory)
    return str(directory)


def measure(config: Config, vocabulary: int) -> tuple[AllocatedBytes, AllocatedBytes, AllocatedBytes]:
    """Of a trainer and its first update, of a second update, and of handing out weights
    in buckets."""
    batches = longest_rollouts(config, vocabulary)
    gc.collect()  # what earlier tests left would be counted as released
    with metered() as first:
        trainer = PolicyTrainer(
            config.models.learner,
            trainer=config.trainer,
            objective=config.objective,
            dtype=config.models.dtype,
            temperature=1.0,
            timeout_s=PATIENCE_S,
            device="cpu",
        )
        trainer.update(batches)
        gc.collect()
    with metered() as second:
        trainer.update(batches)
    with metered() as weight_sync:
        sender = GlooSender([WeightSpec(*row) for row in trainer.weight_specs()], 0, "127.0.0.1", PATIENCE_S)
        for _ in sender.walk(trainer.weights()):
            pass
    return first, second, weight_sync


# bfloat16 where it is what is asked about: without AVX-512 a CPU computes it ten times as slowly.
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "plain": (NARROW, "qwen3", {}),
    "bfloat16": (NARROW, "qwen3", {"models__dtype": "bfloat16"}),
    "llama": (NARROW, "llama", {"models__dtype": "bfloat16"}),
    "recomputed": (
        WIDE,
        "qwen3",
        {"trainer__gradient_checkpointing": "on", "trainer__micro_batch_tokens": 2 * (PROMPT + RESPONSE)},
    ),
    "one of four layers recomputed": (
        WIDE,
        "qwen3",
        {"trainer__recomputed_layers": 1, "trainer__micro_batch_tokens": 2 * (PROMPT + RESPONSE)},
    ),
    "three of four layers recomputed": (
        WIDE,
        "qwen3",
        {"trainer__recomputed_layers": 3, "trainer__micro_batch_tokens": 2 * (PROMPT + RESPONSE)},
    ),
    "layers kept whole": (
        WIDE,
        "llama",
        {"trainer__reshard_after_forward": False},
    ),
    "recomputed bfloat16": (
        WIDE,
        "llama",
        {
            "models__dtype": "bfloat16",
            "trainer__gradient_checkpointing": "on",
            "trainer__micro_batch_tokens": 2 * (PROMPT + RESPONSE),
        },
    ),
    "reference": (BIG_VOCABULARY, "qwen3", {"objective__kl": 0.1}),
    "big vocabulary": (BIG_VOCABULARY, "qwen3", {}),
    "entropy": (
        BIG_VOCABULARY | {"tie_word_embeddings": True},
        "qwen3",
        {"objective__entropy": 0.1, "trainer__gradient_checkpointing": "on"},
    ),
    "one micro-batch": (BIG_VOCABULARY, "qwen3", {"trainer__micro_batch_tokens": 8192}),
    "long sequence": (NARROW, "llama", {"trainer__micro_batch_tokens": 100}),
    # Several chunks of logits to a micro-batch, whose memory beside a frozen head is the peak.
    "adapters": (
        BIG_VOCABULARY | {"tie_word_embeddings": True},
        "qwen3",
        {"trainer__lora_rank": 8},
    ),
}


SLOW = pytest.param("recomputed bfloat16", marks=pytest.mark.long)


@pytest.mark.parametrize("case", [SLOW if case in SLOW.values else case for case in CASES])
def test_trainer_allocates_what_the_ledger_says(case: str, tmp_path: Path) -> None:
    sizes, family, changes = CASES[case]
    config = run_config(str(tmp_path), **changes)
    write_model(tmp_path, sizes, family, config.models.dtype)
    ledger = trainer_ledger(ModelShape.load(str(tmp_path)), config, 1, cuda=False, transfers=("gloo",))
    first, second, weight_sync = measure(config, sizes["vocab_size"])
    assert tensors(ledger.idle) == pytest.approx(first.end, rel=0.01)
    assert tensors(ledger.update) == pytest.approx(first.end + second.peak, rel=0.1)
    assert ledger.weight_sync["transfer_buffers"] == pytest.approx(weight_sync.peak, rel=0.1)
    assert second.end == pytest.approx(0, abs=first.end / 100)  # nothing stays behind


def tensors(ledger: dict[str, int]) -> int:
    return sum(ledger.values()) - ledger["context"]


def eight_billion(ranks: int, transfers: tuple[Transfer, ...] = ("nccl",), **changes: Any) -> TrainerMemory:
    name = "Qwen/Qwen3-8B-Base"
    values: dict[str, Any] = {
        "data__max_prompt_tokens": 512,
        "rollout__max_tokens": 4096,
        "rollout__prompts_per_step": 64,
        "objective__mini_batch_prompts": 64,
        "models__dtype": "bfloat16",
        "trainer__micro_batch_tokens": 8192,
    }
    config = run_config(name, **values | changes)
    return trainer_ledger(ModelShape.load(name), config, ranks, cuda=True, transfers=transfers)


def test_shards_of_eight_gpus_by_hand() -> None:
    parameters = 8_190_735_360
    ledger = eight_billion(8, objective__kl=0.001)
    # Every tensor's first dimension divides by 8.
    assert ledger.idle["weights"] == 4 * parameters // 8
    assert ledger.idle["optimizer"] == 8 * parameters // 8
    assert ledger.update["gradients"] == 4 * parameters // 8
    root = 2 * 151936 * 4096 + 4096
    assert ledger.idle["reference"] == 2 * parameters // 8
    assert ledger.update["reference"] == 2 * parameters // 8 + 2 * root  # whole embedding, head and norm while it works
    assert {"gradients", "activations", "logits"}.isdisjoint(ledger.idle)
    assert "transfer_buffers" in ledger.weight_sync
    assert ledger.host == {}


def test_micro_batches_are_filled_by_sequences_of_other_lengths() -> None:
    """Two sequences of 4,608 tokens are too long for 8,192; one of 4,608 and one of 3,584 are not."""
    mixed, even = (eight_billion(8, rollout__max_tokens=most).update for most in (4096, 3584))
    assert mixed["activations"] == pytest.approx(even["activations"], rel=0.01)  # other shares of prompts


def test_groups_go_to_ranks_whole() -> None:
    """Of 8 prompts each of 8 ranks has one group of 4 rollouts, and of 16 or 32 ranks some have: as much each."""
    small = {
        "objective__mini_batch_prompts": 8,
        "rollout__max_tokens": 512,
        "trainer__micro_batch_tokens": 65_536,
        "trainer__gradient_checkpointing": "off",
    }
    of_eight, of_more = eight_billion(8, **small).update, [eight_billion(ranks, **small).update for ranks in (16, 32)]
    for more in of_more:
        assert (more["activations"], more["batch"]) == (of_eight["activations"], of_eight["batch"])
    # Eight mini-batches of a step are on the device together: 32 rollouts of 1,024 tokens, 512 of them a response's.
    assert of_eight["batch"] == 32 * (24 * 1024 + 34 * 512)


def test_an_engines_sampler_counts_tokens() -> None:
    shape, config = ModelShape.load("Qwen/Qwen3-8B-Base"), run_config("Qwen/Qwen3-8B-Base")
    ledger = engine_ledger(shape, config, "explorer", 1, 0, cuda=True, transfer=None)
    assert ledger["sampler"] == config.engines.explorer.max_num_seqs * 4 * (151_936 + 4748)
    assert "sampler" in ASLEEP_ITEMS and "sampler" not in engine_ledger(
        shape, config, "explorer", 1, 0, cuda=False, transfer=None
    )


def test_with_adapters_the_reference_is_no_model_of_its_own() -> None:
    ledger = eight_billion(8, objective__kl=0.1, trainer__lora_rank=16)
    assert "reference" not in ledger.update and "reference" not in ledger.idle


@pytest.mark.parametrize(
    ("ranks", "replicas", "transfers", "communicators"),
    [
        (1, 1, ("ipc",), 0),
        (1, 1, ("nccl",), 1),  # the weight sync's
        (8, 1, ("ipc",), 1),  # the ranks'
        (8, 1, ("ipc", "nccl"), 2),
        (8, 2, ("ipc",), 3),  # the ranks' of a copy, those with the same shard, all
        (8, 8, ("ipc",), 2),  # a rank holds a copy alone
    ],
)
def test_communicators_of_a_rank(
    ranks: int, replicas: int, transfers: tuple[Transfer, ...], communicators: int
) -> None:
    ledger = eight_billion(ranks, transfers, trainer__replicas=replicas)
    assert ledger.idle["context"] == 850 * 2**20 + communicators * 400 * 2**20


def test_buffers_of_a_weight_sync_by_hand() -> None:
    """By ipc a chunk, or the largest tensor; by nccl three chunks and it; of both in turn the larger."""
    largest, chunk = 2 * 151_936 * 4096, 256 * 2**20
    alone = {way: eight_billion(1, (way,)).weight_sync["transfer_buffers"] for way in ("ipc", "nccl")}
    casting = largest  # a tensor in models.dtype, beside the float32 shard; nothing is gathered on one rank
    assert alone == {"ipc": largest + casting, "nccl": 3 * chunk + largest + casting}
    assert eight_billion(1, ("ipc", "nccl")).weight_sync["transfer_buffers"] == alone["nccl"]


@pytest.mark.parametrize(
    ("tensor_parallel", "transfer", "communicators"),
    [(1, None, 0), (1, "ipc", 0), (1, "nccl", 1), (2, None, 1), (2, "ipc", 1), (2, "nccl", 2)],
)
def test_communicators_of_an_engine(tensor_parallel: int, transfer: Transfer | None, communicators: int) -> None:
    shape, config = ModelShape.load("Qwen/Qwen3-1.7B"), run_config("Qwen/Qwen3-1.7B")
    role: Source = "learner" if transfer else "explorer"
    ledger = engine_ledger(shape, config, role, tensor_parallel, 0, cuda=True, transfer=transfer)
    assert ledger["context"] == 850 * 2**20 + communicators * 400 * 2**20


def test_uneven_shards_are_rounded_up() -> None:
    shape = ModelShape.load("Qwen/Qwen3-0.6B")
    config = run_config("Qwen/Qwen3-0.6B")
    weights = trainer_ledger(shape, config, 3, cuda=True, transfers=("ipc",)).idle["weights"]
    thirds = [(2048, 1024), (1024, 1024), (1024, 1024), (1024, 2048), (3072, 1024), (3072, 1024), (1024, 3072)]
    layer = sum(-(-rows // 3) * columns for rows, columns in thirds) + 2 * -(-1024 // 3) + 2 * -(-128 // 3)
    assert weights == 4 * (28 * layer + -(-151936 // 3) * 1024 + -(-1024 // 3))


def test_offload_moves_shards_to_the_host() -> None:
    parameters = 8_190_735_360
    ledger = eight_billion(8, trainer__cpu_offload=True, objective__kl=0.1, objective__reference_offload=True)
    assert {"weights", "optimizer", "gradients"}.isdisjoint(ledger.update)
    assert ledger.host == {
        "weights": 4 * parameters // 8,
        "gradients": 4 * parameters // 8,
        "optimizer": 8 * parameters // 8,
        "reference": 2 * parameters // 8,
    }


def test_more_ranks_never_need_more() -> None:
    totals = [sum(eight_billion(ranks).update.values()) for ranks in (2, 4, 8, 16, 64)]
    assert totals == sorted(totals, reverse=True)


def test_adapters_have_small_states() -> None:
    ledger = eight_billion(1, trainer__lora_rank=16)
    adapters = 36 * 16 * (3 * 4096 + 4096 + 2 * 1024 + 4096 + 4096 + 3 * (4096 + 12288))
    assert ledger.idle["optimizer"] == 8 * adapters
    assert ledger.idle["weights"] == 4 * adapters + 2 * 8_190_735_360


def test_kv_cache_by_hand() -> None:
    shape = ModelShape.load("Qwen/Qwen3-8B-Base")
    token = 2 * 36 * 8 * 128 * 2
    assert kv_cache_bytes_for(shape, 16, 1) == (1 + 1) * 16 * token  # a block, and the null block
    assert kv_cache_bytes_for(shape, 17, 1) == (2 + 1) * 16 * token
    assert kv_cache_bytes_for(shape, 17, 1, block_tokens=128) == (1 + 1) * 128 * token
    assert kv_bytes_per_token(shape, 4) == token // 4
    assert kv_bytes_per_token(shape, 16) == token // 8  # 8 heads on 16 devices: each twice
    assert kv_bytes_per_token(shape, 2, dtype_bytes=4) == token


def test_engine_weights_by_hand() -> None:
    shape, config = ModelShape.load("Qwen/Qwen3-8B-Base"), run_config("Qwen/Qwen3-8B-Base", models__dtype="bfloat16")

    def weights(tensor_parallel: int) -> int:
        return engine_ledger(shape, config, "explorer", tensor_parallel, 0, cuda=True, transfer=None)["weights"]

    assert weights(1) == 2 * shape.parameters
    norms = 36 * (2 * 4096 + 2 * 128) + 4096
    assert weights(8) == 2 * ((shape.parameters - norms) // 8 + norms)
    # 16 devices: queries, MLP and vocabulary are cut in 16, the 8 key-value heads in 8.
    kv = 36 * 2 * 1024 * 4096
    assert weights(16) == 2 * ((shape.parameters - norms - kv) // 16 + kv // 8 + norms)


def test_an_engines_activations_by_hand() -> None:
    """The larger of a forward over a batch of tokens and of sampling: 151,936 logits, 2 + 4 * 4 bytes of each."""
    shape = ModelShape.load("Qwen/Qwen3-8B-Base")

    def activations(tensor_parallel: int, **engine: int) -> int:
        config = run_config("Qwen/Qwen3-8B-Base", models__dtype="bfloat16", engines__explorer=engine)
        return engine_ledger(shape, config, "explorer", tensor_parallel, 0, cuda=True, transfer=None)["activations"]

    width = 3 * 4096 + 3 * 12288 + 2 * 4096
    assert activations(1) == 8192 * width * 2 == 939_524_096
    assert activations(1, max_num_batched_tokens=2048) == 256 * 151_936 * 18
    assert activations(2, max_num_batched_tokens=32768) == 32768 * (3 * 4096 + (3 * 12288 + 2 * 4096) // 2) * 2


def test_only_learners_receive_weights() -> None:
    shape, config = ModelShape.load("Qwen/Qwen3-1.7B"), run_config("Qwen/Qwen3-1.7B")
    explorer = engine_ledger(shape, config, "explorer", 1, 10**9, cuda=True, transfer=None)
    learner = engine_ledger(shape, config, "learner", 1, 10**9, cuda=True, transfer="ipc")
    assert explorer["kv_cache"] == 10**9
    assert set(learner) - set(explorer) == {"transfer_buffers"}
    assert "cuda_graphs" not in engine_ledger(shape, config, "explorer", 1, 0, cuda=False, transfer=None)
