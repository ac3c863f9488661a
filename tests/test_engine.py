"""Real vLLM engines without Ray: sampling, log-probs and weight swaps, with transformers as second implementation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray.config import EngineConfig, SamplingConfig
from s2l_ray.errors import BroadcastError, EngineError, StaleWeightsError
from s2l_ray.generation.engine import EngineSettings
from s2l_ray.generation.learner import LearnerEngine
from s2l_ray.generation.sleeping import fall_asleep, swap_and_wake
from s2l_ray.rollout import Prompt, SampleRequest
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.gloo_sender import GlooSender
from s2l_ray.weights.messages import Invitation, update_info

BF16 = 0.08
"""Largest difference of two bf16 computations of one log-prob; a step in bf16 between 2 and 4 is 0.016."""
MAX_TOKENS = 18


class Learner:
    """A learner engine, a trainer's worth of weights to send it, and an event loop to drive it from plain tests."""

    def __init__(self, model_dir: str, prompts: dict[str, Prompt]) -> None:
        self.runner = asyncio.Runner()
        settings = EngineSettings(
            model=model_dir,
            source="learner",
            engine=EngineConfig(enforce_eager=True),
            kv_cache_bytes=10**8,
            sampling={"train": SamplingConfig(), "eval": SamplingConfig(temperature=0.5, top_p=0.9)},
            max_tokens=MAX_TOKENS,
            max_model_len=64,
            dtype="bfloat16",
            trust_remote_code=False,
            weight_transfer="gloo",
            load_weights=False,
        )
        self.engine = LearnerEngine(settings, prompts)
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
        self.start = [weight.detach().float() for weight in self.model.parameters()]
        # As the trainer does: tied weights come once.
        named = dict(self.model.named_parameters())
        self.specs = [WeightSpec(n, "bfloat16", tuple(p.shape)) for n, p in named.items()]
        self.sender = GlooSender(self.specs, 0, "127.0.0.1", 60)
        self.groups = 0
        self.join()

    def join(self) -> None:
        """A new broadcast group of this process and the engine's worker."""
        host, port = self.sender.listen()
        name, self.groups = f"weights-{self.groups}", self.groups + 1
        forming = threading.Thread(target=self.sender.form, args=(name, 2))
        forming.start()
        self.call(self.engine.join(Invitation(host, port, name, 1, 2, 60)))
        forming.join()

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, parameter.detach()) for name, parameter in self.model.named_parameters())

    def call(self, coroutine):
        return self.runner.run(coroutine)

    def swap(self, version: int) -> None:
        self.send_to(self.engine.swap(version, update_info(self.specs)), self.sender)

    def send_to(self, receiving: Coroutine, sender: GlooSender) -> None:
        sending = threading.Thread(target=sender.send, args=(self.stream(),))
        sending.start()
        self.call(receiving)
        sending.join()

    def change_weights(self, seed: int) -> None:
        """Another policy: every weight disturbed by twice its own scale (untrained weights are small)."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight, start in zip(self.model.parameters(), self.start, strict=True):
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(start + noise * 2 * start.std().nan_to_num())

    @torch.no_grad()
    def reference(self, token_ids: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """transformers' log-probs of tokens 1.. of a text, float32 [tokens - 1]."""
        ids = torch.as_tensor(token_ids, dtype=torch.long)[None]
        logprobs = torch.log_softmax(self.model(ids).logits[0, :-1].float() / temperature, dim=-1)
        return logprobs.gather(1, ids[0, 1:, None])[:, 0].numpy()


def make_prompts(model_dir: str) -> dict[str, Prompt]:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    texts = [f"{a} {a + 1} 7 12 : 24 >" for a in range(1, 9)]
    return {t: Prompt(t, t, t, np.array(tokenizer(t).input_ids, dtype=np.int32), "") for t in texts}


@pytest.fixture(scope="module")
def learner(family) -> Iterator[Learner]:
    learner = Learner(str(family.large), make_prompts(str(family.large)))
    with pytest.raises(StaleWeightsError, match="no valid weights"):  # before the first swap
        learner.call(learner.engine.sample(SampleRequest(1, "1 2 7 12 : 24 >", "learner", 1, 1, 0)))
    learner.swap(0)
    yield learner
    learner.engine.close()


def sample(learner: Learner, prompt: str, count: int, version: int, **kwargs):
    request = SampleRequest(kwargs.pop("step", 1), prompt, "learner", count, 1, version, **kwargs)
    return learner.call(learner.engine.sample(request)).rollouts


def full_text(learner: Learner, rollout) -> np.ndarray:
    return np.concatenate([learner.engine._prompts[rollout.prompt_id].token_ids, rollout.token_ids])


def test_sampled_logprobs_are_transformers(learner: Learner):
    prompt = "3 4 7 12 : 24 >"
    for rollout in sample(learner, prompt, 4, learner.engine.version):
        reference = learner.reference(full_text(learner, rollout))[-len(rollout.token_ids) :]
        np.testing.assert_allclose(rollout.logprobs, reference, rtol=0.01, atol=BF16)


def test_logprobs_are_of_the_distribution_that_was_sampled(learner: Learner):
    """With temperature 0.5 and top-p 0.9, log-probs are renormalised: worked out here from transformers' logits."""
    rollout = sample(learner, "3 4 7 12 : 24 >", 1, learner.engine.version, sampling="eval")[0]
    text = torch.as_tensor(full_text(learner, rollout), dtype=torch.long)
    with torch.no_grad():
        logits = learner.model(text[None]).logits[0].float() / 0.5
    start = len(text) - len(rollout.token_ids)
    for position, (token, logprob) in enumerate(zip(rollout.token_ids, rollout.logprobs, strict=True)):
        probs = torch.softmax(logits[start + position - 1], dim=-1)
        ordered, order = probs.sort(descending=True)
        nucleus = order[: int((ordered.cumsum(0) < 0.9).sum()) + 1]
        if (
            abs(float(ordered.cumsum(0)[len(nucleus) - 1]) - 0.9) > 0.02
        ):  # not at the nucleus's edge, where bf16 decides
            assert token in nucleus
            assert logprob == pytest.approx(float((probs[token] / probs[nucleus].sum()).log()), abs=2 * BF16)


def test_a_rollout_is_a_function_of_its_seed_whatever_shares_the_batch(learner: Learner):
    version = learner.engine.version
    prompts = list(learner.engine._prompts)
    alone = [sample(learner, p, 3, version) for p in prompts]

    async def together():
        requests = [SampleRequest(1, p, "learner", 3, 1, version) for p in reversed(prompts)]
        return await asyncio.gather(*[learner.engine.sample(r) for r in requests])

    for first, second in zip(alone, reversed(learner.call(together())), strict=True):
        assert [r.token_ids.tolist() for r in first] == [r.token_ids.tolist() for r in second.rollouts]
    later = sample(learner, prompts[0], 1, version, first_index=2)[0]
    assert later.index == 2 and later.token_ids.tolist() == alone[0][2].token_ids.tolist()
    other_step = sample(learner, prompts[0], 3, version, step=2)
    assert [r.token_ids.tolist() for r in other_step] != [r.token_ids.tolist() for r in alone[0]]


def test_rollouts_have_text_and_an_end(learner: Learner):
    tokenizer = AutoTokenizer.from_pretrained(learner.engine.settings.model)
    for rollout in sample(learner, "3 4 7 12 : 24 >", 8, learner.engine.version):
        assert rollout.text == tokenizer.decode(rollout.token_ids, skip_special_tokens=True)
        ended = rollout.token_ids[-1] == tokenizer.eos_token_id
        assert rollout.finish_reason == ("stop" if ended else "length")
        assert ended or len(rollout.token_ids) == MAX_TOKENS


def test_every_swap_takes_the_new_weights_and_drops_the_old_caches(learner: Learner):
    prompt = "5 6 7 12 : 24 >"
    text = full_text(learner, sample(learner, prompt, 1, learner.engine.version)[0])
    for version in (1, 2, 3):
        before = learner.call(learner.engine.score(text))
        learner.change_weights(seed=version)
        learner.swap(version)
        after = learner.call(learner.engine.score(text))
        np.testing.assert_allclose(after, learner.reference(text), rtol=0.01, atol=BF16)
        assert np.abs(after - before).max() > 4 * BF16
        # The prompt's prefix was cached under the old version; a cache that survived would show here.
        for rollout in sample(learner, prompt, 4, version):
            assert rollout.weight_version == version
            reference = learner.reference(full_text(learner, rollout))[-len(rollout.token_ids) :]
            np.testing.assert_allclose(rollout.logprobs, reference, rtol=0.01, atol=BF16)


def test_another_version_than_the_held_one_is_refused(learner: Learner):
    held = learner.engine.version
    with pytest.raises(StaleWeightsError, match=f"weight version {held + 1}, but holds version {held}"):
        sample(learner, "3 4 7 12 : 24 >", 1, held + 1)


def test_a_swap_that_broke_off_leaves_no_trace(learner: Learner):
    """Part of a layer arrives (of a policy that nobody gets whole), then the sender is gone."""
    text = full_text(learner, sample(learner, "5 6 7 12 : 24 >", 1, learner.engine.version)[0])
    part = [spec for spec in learner.specs if "q_proj" in spec.name or "gate_proj" in spec.name]
    assert len(part) == 8  # of every layer, one of the tensors that vLLM fuses
    learner.change_weights(seed=10)
    learner.call(learner.engine.begin_swap())
    whole, learner.sender._specs = learner.specs, part
    chosen = {spec.name for spec in part}
    weights = ((name, weight) for name, weight in learner.stream() if name in chosen)
    sending = threading.Thread(target=learner.sender.send, args=(weights,))
    sending.start()
    learner.call(learner.engine.receive(update_info(part)))
    sending.join()
    learner.sender._specs = whole
    learner.sender.close()
    with pytest.raises(BroadcastError, match="update_weights"):
        learner.call(learner.engine.receive(update_info(whole)))
    with pytest.raises(StaleWeightsError, match="no valid weights"):
        learner.call(learner.engine.score(text))

    learner.change_weights(seed=11)
    learner.call(learner.engine.check_in())
    learner.join()
    learner.swap(20)
    np.testing.assert_allclose(learner.call(learner.engine.score(text)), learner.reference(text), rtol=0.01, atol=BF16)


def test_asleep_it_refuses_and_after_the_wake_it_has_the_new_weights(learner: Learner):
    text = full_text(learner, sample(learner, "5 6 7 12 : 24 >", 1, learner.engine.version)[0])

    def engine(method: str, *args: str) -> None:
        learner.call(getattr(learner.engine, method)(*args))

    def swap() -> None:
        with pytest.raises(StaleWeightsError):
            learner.call(learner.engine.score(text))
        learner.swap(30)
        with pytest.raises(EngineError, match="asleep: wake kv_cache first"):
            learner.call(learner.engine.score(text))

    def nobody(*_: str) -> None:
        pass

    fall_asleep(nobody, engine)
    with pytest.raises(StaleWeightsError, match="no valid weights"):
        sample(learner, "5 6 7 12 : 24 >", 1, 20)
    with pytest.raises(EngineError, match="wake it first"):
        learner.call(learner.engine.begin_swap())
    learner.change_weights(seed=30)
    swap_and_wake(nobody, engine, swap)
    np.testing.assert_allclose(learner.call(learner.engine.score(text)), learner.reference(text), rtol=0.01, atol=BF16)
    assert len(sample(learner, "5 6 7 12 : 24 >", 2, 30)) == 2
