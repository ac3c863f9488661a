"""What a real engine of two workers holds, compared with the trainer's weights: cluster.verify_weights.

A Qwen2 has what makes the comparison hard: q, k and v fused, with biases; one KV head, which both workers hold; a
vocabulary that is padded; an output head that is tied to the embedding and, on CPUs, a packed copy of it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from s2l_ray.errors import BroadcastError, EngineError, StaleWeightsError, WeightMismatchError
from s2l_ray.vllm_bridge import arguments
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.digest import directory_digest, tensor_digest
from s2l_ray.weights.gloo_sender import GlooSender
from s2l_ray.weights.held import checked_digest
from s2l_ray.weights.messages import update_info
from tests.support.learner_engine import Learner
from tests.support.patience import PATIENCE_S

QWEN2 = {
    "vocab_size": 111,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
LAYER = "model.layers.1"


class Verified(Learner):
    """A learner engine of two workers that is compared with the trainer's model as a driver does."""

    def send(self, *, left_out: str | None = None) -> None:
        """A weight sync of the model's present weights, but for one tensor."""
        whole, self.specs = self.specs, [spec for spec in self.specs if spec.name != left_out]
        self.sender = GlooSender(self.specs, 0, "127.0.0.1", PATIENCE_S)
        self.join()
        self.weight_sync(5)
        self.sender.close()
        self.specs = whole

    def show(self, specs: list[WeightSpec], *, dropped: bool = False) -> None:
        """Send some tensors within a sync that began, through a group of their own, or drop the connection instead."""
        whole, self.specs = self.specs, specs
        self.sender = GlooSender(specs, 0, "127.0.0.1", PATIENCE_S)
        self.join()

        async def both() -> None:
            sending = asyncio.to_thread(self.sender.close if dropped else lambda: self.sender.send(self.weights(specs)))
            received = asyncio.ensure_future(self.engine.receive(update_info(specs)))
            await asyncio.gather(received, sending, return_exceptions=True)  # the thread has ended before close() below
            await received

        try:
            self.call(both())
        finally:
            self.sender.close()
            self.specs = whole

    def verify(self) -> str:
        trainer = [tensor_digest(tensor) for _, tensor in self.weights()]
        return checked_digest(5, self.specs, trainer, {0: self.call(self.engine.weight_digests())})

    def corrupt(self, *how: object) -> None:
        self.call(self.engine._vllm.llm.collective_rpc("corrupt", args=how))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a tokenizer, of which nothing is asked."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("qwen2")
    model = Qwen2ForCausalLM(Qwen2Config(**QWEN2))
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and norms, which would all be 0 and 1
            torch.nn.init.normal_(parameter)
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def learner(family, directory: Path) -> Iterator[Verified]:
    for file in Path(family.large).glob("tokenizer*"):
        (directory / file.name).write_bytes(file.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        ours = arguments.engine_arguments
        corruptible = {"worker_extension_cls": "tests.support.corrupting_worker.CorruptibleWorker"}
        patch.setattr(
            arguments, "engine_arguments", lambda settings: dataclasses.replace(ours(settings), **corruptible)
        )
        learner = Verified(str(directory), {}, tensor_parallel=2, max_tokens=8, max_model_len=64)
    learner.call(learner.engine.describe_weights(learner.specs))
    yield learner
    learner.close()


def test_an_engine_of_two_workers_holds_what_was_sent(learner: Verified, directory: Path):
    assert learner.call(learner.engine.describe_weights(learner.specs)) == []
    with pytest.raises(StaleWeightsError, match="no valid weights"):
        learner.verify()
    learner.send()
    first = learner.verify()
    assert first == directory_digest(directory)  # as exported, with the tied head stored once
    assert learner.call(learner.engine.describe_weights(learner.specs)) == []  # also after weight syncs
    learner.change_weights(1)
    learner.send()
    assert first != learner.verify() == learner.verify()


@pytest.mark.parametrize(
    ("rank", "layer", "change", "rows", "tensor", "count"),
    [
        (1, f"{LAYER}.self_attn.o_proj", "flip", [5], f"{LAYER}.self_attn.o_proj.weight", 1),  # cut by columns
        (0, f"{LAYER}.mlp.gate_up_proj", "exchange", [0, 1], f"{LAYER}.mlp.gate_proj.weight", 1),
        (0, f"{LAYER}.mlp.gate_up_proj", "exchange", [*range(96)], f"{LAYER}.mlp.gate_proj.weight", 2),  # gate and up
        (1, f"{LAYER}.self_attn.qkv_proj", "exchange", [*range(64)], f"{LAYER}.self_attn.q_proj.weight", 2),  # q and k
        (1, f"{LAYER}.self_attn.qkv_proj", "flip", [70], f"{LAYER}.self_attn.v_proj.weight", 1),  # of a replica
        (1, "model.embed_tokens", "flip", [46], "model.embed_tokens.weight", 1),  # the last row before the padding
        (0, "model.norm", "exchange", [3, 4], "model.norm.weight", 1),
        (1, "model.norm", "flip", [7], "model.norm.weight", 1),
    ],
)
def test_what_changed_in_one_worker_is_found_and_named(
    learner: Verified, rank: int, layer: str, change: str, rows: list[int], tensor: str, count: int
):
    learner.change_weights(2)
    learner.send()
    learner.verify()
    learner.corrupt(rank, layer, change, rows)
    message = rf"version 5, learner engine 0 holds other weights than the trainer: {tensor} has .*{layer}.*; {count} of"
    with pytest.raises(WeightMismatchError, match=message):
        learner.verify()


@pytest.mark.parametrize("name", [f"{LAYER}.input_layernorm.weight", f"{LAYER}.self_attn.k_proj.bias"])
def test_a_tensor_that_did_not_arrive_is_found(learner: Verified, name: str):
    learner.change_weights(3)
    learner.send()
    learner.verify()
    learner.change_weights(4)
    learner.send(left_out=name)
    with pytest.raises(WeightMismatchError, match=f"{name} has"):
        learner.verify()


def test_what_cannot_be_compared_is_named_beforehand(learner: Verified):
    unknown = WeightSpec("model.layers.0.self_attn.q_norm.weight", "bfloat16", (32,))
    fewer = [spec for spec in learner.specs if spec.name != "model.norm.weight"]
    wider = [dataclasses.replace(spec, dtype="float32") for spec in learner.specs]
    assert "q_norm" in learner.call(learner.engine.describe_weights([*learner.specs, unknown]))[0]
    missing = ["model.norm.weight: no tensor of the trainer's fills it"]
    assert learner.call(learner.engine.describe_weights(fewer)) == missing
    assert "is held in torch.bfloat16, which the" in learner.call(learner.engine.describe_weights(wider))[0]
    with pytest.raises(EngineError, match="describe_weights comes first"):
        learner.call(learner.engine.weight_digests())
    assert learner.call(learner.engine.describe_weights(learner.specs)) == []


CHUNKS = 4


@pytest.mark.parametrize("whole_chunks", range(CHUNKS + 1))
def test_a_sync_that_broke_off_anywhere_leaves_the_engine_out_of_service_until_a_whole_one(
    learner: Verified, whole_chunks: int
):
    """The sender goes before the first chunk, between chunks, in the last one, or before it says that all is there."""
    learner.change_weights(5)
    learner.send()
    before = learner.verify()
    learner.change_weights(6 + whole_chunks)
    learner.call(learner.engine.begin_weight_sync())
    each = -(-len(learner.specs) // CHUNKS)
    chunks = [learner.specs[i : i + each] for i in range(0, len(learner.specs), each)]
    for chunk in chunks[:whole_chunks]:
        learner.show(chunk)
    if whole_chunks < CHUNKS:
        with pytest.raises(BroadcastError, match="update_weights"):
            learner.show(chunks[whole_chunks], dropped=True)
    for ask in (learner.engine.score(np.arange(3, 9)), learner.engine.weight_digests()):
        with pytest.raises(StaleWeightsError, match="no valid weights"):
            learner.call(ask)
    learner.call(learner.engine.check_in())  # as the driver asks before it tries again
    learner.change_weights(20)
    learner.send()
    assert learner.verify() != before  # the whole of the newer version, nothing of the two before it
