"""Packing, packed attention and chunked log-probs, against plain transformers on one sequence at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from s2l_ray.errors import ModelError
from s2l_ray.objective import sequence_sums, spread
from s2l_ray.training import attention
from s2l_ray.training.attention import PackedLayout
from s2l_ray.training.logprobs import chunked_scores
from s2l_ray.training.model import PackedPolicy, load_causal_lm
from s2l_ray.training.packing import TrainSequence, idle_micro_batch, micro_batches, pack
from tests.support.training_models import VOCABULARY, random_model, whole_model, write_model


def sequence(ids: list[int], response: int, advantage: float = 1.0, explorer: bool = False) -> TrainSequence:
    return TrainSequence(
        np.array(ids, dtype=np.int64), response, np.full(response, -1.0, np.float32), explorer, advantage, 0.25
    )


def random_sequences(lengths: list[tuple[int, int]], seed: int = 0) -> list[TrainSequence]:
    rng = np.random.default_rng(seed)
    return [sequence(rng.integers(0, VOCABULARY, p + r).tolist(), r) for p, r in lengths]


def test_micro_batches_keep_to_the_budget_and_a_long_sequence_is_alone() -> None:
    sequences = random_sequences([(2, 1), (10, 10), (2, 4), (3, 4), (1, 2)])  # 3, 20, 6, 7, 3 tokens
    rows = micro_batches(sequences, budget=12)
    assert [[s.tokens for s in row] for row in rows] == [[20], [7], [6, 3, 3]]
    assert micro_batches([], 12) == []


def test_pack_by_hand() -> None:
    batch = pack([sequence([5, 6, 7, 8], 2, 1.5, explorer=True), sequence([9, 10], 1, -0.5)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch.layout.cu_seqlens.tolist() == [0, 4, 6]
    assert batch.layout.padded_index.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.predictors.tolist() == [1, 2, 4]
    assert batch.targets.tolist() == [7, 8, 10]
    assert batch.advantages.tolist() == [1.5, 1.5, -0.5]
    assert batch.weights.tolist() == [0.25] * 3
    assert batch.from_explorer.tolist() == [True, True, False]
    assert PackedLayout.of([1, 3, 2]).padded_index.tolist() == [0, 3, 4, 5, 6, 7]


def test_an_idle_micro_batch_weighs_nothing() -> None:
    batch = idle_micro_batch()
    assert batch.weights.tolist() == [0.0]
    assert batch.real.tolist() == [False]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
@pytest.mark.parametrize("parts", ["logprobs", "entropy", "both"])
def test_chunked_scores_and_gradients_equal_the_whole_softmax(parts: str, chunk: int, softcap: float | None) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    targets, outer = torch.randint(20, (11,)), torch.randn(2, 11)
    outer[{"logprobs": 1, "entropy": 0, "both": slice(0)}[parts]] = 0
    logits = hidden @ weight.T
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    logp = F.log_softmax(logits / 0.7, -1)
    expected = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(1)
    expected_grads = torch.autograd.grad((torch.stack(expected) * outer).sum(), (hidden, weight))
    got = chunked_scores(hidden, weight, targets, temperature=0.7, chunk=chunk, softcap=softcap)
    used = [
        score * of for score, of in zip(got, outer, strict=True) if of.any()
    ]  # an unused one has no gradient at all
    grads = torch.autograd.grad(sum(used).sum(), (hidden, weight))
    torch.testing.assert_close(tuple(got), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-5, atol=1e-5)


def test_entropy_by_hand() -> None:
    """One hidden number h = 1; logits 0, log 2 at temperature 1: p = 1/3, 2/3."""
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [float(np.log(2.0))]], requires_grad=True)
    scores = chunked_scores(hidden, weight, torch.tensor([1]), temperature=1.0, chunk=8)
    assert scores.logprobs.item() == pytest.approx(np.log(2 / 3))
    entropy = np.log(3) - 2 / 3 * np.log(2)
    assert scores.entropy.item() == pytest.approx(entropy)
    scores.entropy.sum().backward()
    of_second = -2 / 3 * (np.log(2 / 3) + entropy)
    assert weight.grad[:, 0].tolist() == pytest.approx([-of_second, of_second])


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("with_entropy", [False, True])
def test_logits_of_all_tokens_never_exist(with_entropy: bool) -> None:
    torch.manual_seed(0)
    tokens, vocabulary, chunk = 512, 1000, 32
    hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(vocabulary, 8, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    with LargestTensor() as chunked:
        scores = chunked_scores(hidden, weight, targets, temperature=1.0, chunk=chunk)
        (scores.logprobs + with_entropy * scores.entropy).sum().backward()
    with LargestTensor() as whole:
        F.cross_entropy(hidden @ weight.T, targets).backward()
    assert chunked.numel == chunk * vocabulary
    assert whole.numel == tokens * vocabulary


def one_by_one(model: torch.nn.Module, sequences: list[TrainSequence], temperature: float) -> torch.Tensor:
    """Log-probs of the response tokens from full logits, without packing."""
    parts = []
    for s in sequences:
        ids = torch.from_numpy(s.token_ids)[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1] / temperature
        every = F.log_softmax(logits.float(), -1).gather(1, ids[0, 1:, None])[:, 0]
        parts.append(every[-s.response_tokens :])
    return torch.cat(parts)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("lengths", [[(3, 5), (1, 1), (7, 2), (2, 9)], [(3, 4)] * 3])
def test_packed_equals_one_by_one_in_values_and_gradients(
    family: str, lengths: list[tuple[int, int]], tmp_path: Path
) -> None:
    sequences = random_sequences(lengths)
    plain = random_model(family)
    expected = one_by_one(plain, sequences, 0.8)
    outer = torch.randn(len(expected), generator=torch.Generator().manual_seed(1))
    (expected * outer).sum().backward()
    policy = PackedPolicy(whole_model(write_model(family, tmp_path)), temperature=0.8, chunk=5)
    got = policy(pack(sequences)).logprobs
    (got * outer).sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for (name, p), (other, q) in zip(plain.named_parameters(), policy.model.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-5)


def test_packed_equals_padded_in_values_and_gradients(tmp_path: Path) -> None:
    """transformers' own attention mask over a right-padded batch, as most trainers have it."""
    sequences = random_sequences([(3, 5), (1, 1), (7, 2), (2, 9)])
    plain, longest = random_model("qwen3"), max(s.tokens for s in sequences)
    ids = torch.stack([F.pad(torch.from_numpy(s.token_ids), (0, longest - s.tokens)) for s in sequences])
    mask = torch.stack([(torch.arange(longest) < s.tokens).long() for s in sequences])
    logp = F.log_softmax(plain(input_ids=ids, attention_mask=mask).logits[:, :-1] / 0.8, -1)
    every = logp.gather(2, ids[:, 1:, None])[..., 0]
    expected = torch.cat(
        [row[s.tokens - s.response_tokens - 1 : s.tokens - 1] for row, s in zip(every, sequences, strict=True)]
    )
    expected.square().sum().backward()
    policy = PackedPolicy(whole_model(write_model("qwen3", tmp_path)), temperature=0.8, chunk=5)
    got = policy(pack(sequences)).logprobs
    got.square().sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for p, q in zip(plain.parameters(), policy.model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_neighbour_changes_nothing(tmp_path: Path, dtype: torch.dtype) -> None:
    policy = PackedPolicy(whole_model(write_model("qwen3", tmp_path)).to(dtype), temperature=1.0, chunk=64)
    first, middle, last = random_sequences([(3, 6), (2, 4), (4, 5)])
    other = sequence([(t + 1) % VOCABULARY for t in middle.token_ids], 4)
    with torch.no_grad():
        before, after = policy(pack([first, middle, last])).logprobs, policy(pack([first, other, last])).logprobs
    assert torch.equal(before[:6], after[:6])
    assert torch.equal(before[-5:], after[-5:])
    assert not torch.equal(before[6:10], after[6:10])


def test_bfloat16_stays_close_to_float32(tmp_path: Path) -> None:
    directory = write_model("qwen3", tmp_path)
    batch = pack(random_sequences([(3, 6), (2, 4), (4, 5)]))
    with torch.no_grad():
        exact, rough = (
            PackedPolicy(whole_model(directory).to(t), temperature=1.0, chunk=64)(batch).logprobs
            for t in (torch.float32, torch.bfloat16)
        )
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.2


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def test_a_sliding_window_is_an_error_only_when_a_sequence_is_longer(tmp_path: Path) -> None:
    MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8)).save_pretrained(tmp_path)
    policy = PackedPolicy(whole_model(str(tmp_path)), temperature=1.0, chunk=64)
    within = random_sequences([(3, 5), (2, 2)])
    with torch.no_grad():
        expected = one_by_one(MistralForCausalLM.from_pretrained(tmp_path), within, 1.0)
        torch.testing.assert_close(policy(pack(within)).logprobs, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="9 tokens exceeds the sliding window .8."):
        policy(pack(random_sequences([(3, 6)])))


def test_attention_soft_capping_is_an_error(tmp_path: Path) -> None:
    Gemma2ForCausalLM(Gemma2Config(**SMALL)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="attn_logit_softcapping"):
        load_causal_lm(str(tmp_path))


def test_final_soft_capping_is_read_from_the_config(tmp_path: Path) -> None:
    config = Gemma2Config(**SMALL, attn_logit_softcapping=None, final_logit_softcapping=2.0, initializer_range=0.3)
    model = Gemma2ForCausalLM(config)
    model.save_pretrained(tmp_path)
    sequences = random_sequences([(3, 5), (2, 4)])
    policy = PackedPolicy(whole_model(str(tmp_path)), temperature=0.9, chunk=4)
    with torch.no_grad():
        torch.testing.assert_close(
            policy(pack(sequences)).logprobs, one_by_one(model, sequences, 0.9), rtol=1e-5, atol=1e-5
        )


def test_a_directory_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="config.json"):
        load_causal_lm(str(tmp_path))


@pytest.mark.parametrize("takes_grouped", [True, False])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_the_kernel_for_gpus_takes_what_it_is_given(
    kv_heads: int, takes_grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own checks and shapes, forward and backward, without the kernel: shared keys and values as they are."""
    monkeypatch.setattr(attention, "_takes_grouped_queries", lambda: takes_grouped)
    seen: list[int] = []
    real = varlen.varlen_attn

    def noting(query: torch.Tensor, key: torch.Tensor, *more: object, **options: object) -> object:
        seen.append(key.shape[1])
        return real(query, key, *more, **options)

    monkeypatch.setattr(varlen, "varlen_attn", noting)
    with FakeTensorMode():
        query = torch.empty(24, 8, 64, dtype=torch.bfloat16, requires_grad=True)
        key, value = (torch.empty(24, kv_heads, 64, dtype=torch.bfloat16, requires_grad=True) for _ in "kv")
        layout = attention.PackedLayout(torch.empty(4, dtype=torch.int32), 12, None)
        out = attention._flash(query, key, value, layout, 0.125)
        gradients = torch.autograd.grad(out.sum(), (query, key, value))
    assert out.shape == query.shape and out.dtype == torch.bfloat16
    assert [g.shape for g in gradients] == [query.shape, key.shape, value.shape]
    assert seen == [kv_heads if takes_grouped else 8]


def test_this_torch_takes_grouped_queries() -> None:
    assert attention._takes_grouped_queries()


def test_what_a_loss_does_with_sequences_asks_a_gpu_nothing() -> None:
    """Fake tensors have no values: whatever would wait for one, to know a size, is an error."""
    with FakeTensorMode():
        lengths, values = torch.empty(3, dtype=torch.int64), torch.empty(11)
        assert spread(sequence_sums(values, lengths), lengths, len(values)).shape == (11,)
        with pytest.raises(DynamicOutputShapeException):
            spread(sequence_sums(values, lengths), lengths)
