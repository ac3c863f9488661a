"""Weights that change while requests run, on a real vLLM engine; transformers scores the same texts under each version.

float32, so that a log-prob is the reference's within 1e-4 or it is another token's or another version's.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.errors import BroadcastError, StaleWeightsError
from s2l_ray.rollouts.records import Rollout, RolloutSet
from s2l_ray.rollouts.requests import LearnerRequest
from s2l_ray.weights.messages import update_info
from tests.support import learner_engine
from tests.support.learner_engine import Learner, make_prompts
from tests.support.patience import PATIENCE_S

PLACES = 8
"""Sequences in one batch: an eighth of what the tests ask for at a time, so that the rest waits."""
ASKED = 64
MAX_TOKENS = 60
FLOAT32 = 1e-4


class SyncingLearner(Learner):
    """An engine whose weights change in flight, and what they were at every version."""

    def __init__(self, model_dir: str) -> None:
        settings = {"weight_sync_mode": "in_flight", "max_staleness": 9, "weight_sync_timeout_s": PATIENCE_S}
        lengths = {"max_tokens": MAX_TOKENS, "max_model_len": 96}
        super().__init__(model_dir, make_prompts(model_dir), PLACES, dtype="float32", **lengths, **settings)
        self.versions: dict[int, dict[str, torch.Tensor]] = {}

    def renew(self) -> int:
        """Other weights on the trainer's side, not sent yet. Returns their version."""
        version = len(self.versions)
        self.change_weights(version, scale=1.0)
        self.versions[version] = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return version

    @property
    def output_processor(self) -> Any:
        """vLLM's, which turns the engine's tokens into outputs."""
        llm = self.engine._vllm.llm
        return (llm._engine if learner_engine.OWN_PROCESS else llm).output_processor

    def generated(self) -> dict[str, int]:
        """Tokens so far of every rollout under way, as the engine's process has told."""
        states = self.output_processor.request_states.copy()
        return {request_id: state.detokenizer.num_output_tokens() for request_id, state in states.items()}

    def sample_all(self, version: int) -> list[asyncio.Task[RolloutSet]]:
        """Eight rollouts of each of the eight prompts, asked for at once."""
        requests = [LearnerRequest(version, p, 8, 1, version) for p in self.engine._prompts]
        return [asyncio.create_task(self.engine.sample(request)) for request in requests]

    async def progress(self) -> None:
        """Until some rollout has three tokens more than now."""
        before = self.generated()
        await until(lambda: any(n > before.get(key, 0) + 2 for key, n in self.generated().items()))

    def logits_under(self, version: int, rollout: Rollout) -> torch.Tensor:
        """What a version's weights say to every token of the response, given all before it: [tokens, vocabulary]."""
        self.model.load_state_dict(self.versions[version])
        return self.logits(self.full_text(rollout))[-len(rollout.token_ids) - 1 : -1]

    def rescored(self, rollout: Rollout, token_versions: np.ndarray) -> np.ndarray:
        """transformers' log-prob of every token of the response, each under its own version."""
        tokens = torch.as_tensor(rollout.token_ids, dtype=torch.long)[:, None]
        by_version = {
            version: torch.log_softmax(self.logits_under(version, rollout), -1).gather(1, tokens)[:, 0].numpy()
            for version in np.unique(token_versions).tolist()
        }
        return np.array([by_version[v][t] for t, v in enumerate(token_versions.tolist())])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def learner(family) -> Iterator[SyncingLearner]:
    learner = SyncingLearner(str(family.large))
    learner.weight_sync(learner.renew())
    yield learner
    learner.close()


@pytest.fixture
def drain(learner: SyncingLearner) -> Iterator[None]:
    learner.engine.settings = dataclasses.replace(learner.engine.settings, weight_sync_mode="drain")
    yield
    learner.engine.settings = dataclasses.replace(learner.engine.settings, weight_sync_mode="in_flight")


@pytest.fixture(scope="module")
def synced_thrice(learner: SyncingLearner) -> list[Rollout]:
    """64 rollouts that were asked for together; three new versions came while they were sampled."""

    async def sample() -> list[RolloutSet]:
        tasks = learner.sample_all(learner.engine.version)
        for _ in range(3):
            await learner.progress()
            under_way = len(learner.generated())
            times = await learner.weight_sync_beside_others(learner.renew())
            assert 0 < times.running <= under_way
            assert times.stall_s >= times.receive_s > 0
        return await asyncio.gather(*tasks)

    for _ in range(5):  # a test process that slept too long between two weight syncs tries again
        rollouts = [rollout for part in learner.call(sample()) for rollout in part.rollouts]
        if any(len(r.weight_syncs) == 3 for r in rollouts):
            return rollouts
    raise AssertionError("no rollout went through all three weight syncs")


def newest(rollouts: list[Rollout]) -> int:
    return max(int(rollout.token_versions[-1]) for rollout in rollouts)


def check_logprobs(learner: SyncingLearner, rollouts: list[Rollout]) -> None:
    for rollout in rollouts:
        expected = learner.rescored(rollout, rollout.token_versions)
        np.testing.assert_allclose(rollout.logprobs, expected, atol=FLOAT32)


def test_every_token_has_the_logprob_of_its_own_weights(learner: SyncingLearner, synced_thrice: list[Rollout]):
    """A cache of old weights that was read by newer ones would show, and so would a weight sync one token off."""
    check_logprobs(learner, synced_thrice)
    last = newest(synced_thrice)
    through_all = [r for r in synced_thrice if len(r.weight_syncs) == 3]
    for rollout in through_all:
        assert rollout.weight_syncs[0][0] > 0
        assert [rollout.weight_version, *(v for _, v in rollout.weight_syncs)] == list(range(last - 3, last + 1))
    # What waited for a place meanwhile has nothing of the older versions.
    assert any(r.weight_version == last and r.weight_syncs == () for r in synced_thrice)
    for rollout in through_all:
        for off in (-1, 1):
            moved = np.roll(rollout.token_versions, off)
            moved[[0, -1]] = rollout.token_versions[[0, -1]]
            assert np.abs(learner.rescored(rollout, moved) - rollout.logprobs).max() > 10 * FLOAT32


def test_a_seed_goes_on_with_its_noise_across_weight_syncs(learner: SyncingLearner, synced_thrice: list[Rollout]):
    """The tokens, sampled again from transformers' logits by vLLM's rule for CPUs: one draw per token and seed."""
    for rollout in (r for r in synced_thrice if r.weight_syncs):
        step = newest(synced_thrice) - 3  # `sample_all` asks for the step of the version then held
        seed = LearnerRequest(step, rollout.prompt_id, 8, 1, step).first_seed + rollout.index
        generator = torch.Generator().manual_seed(seed)
        noise = torch.cat([torch.randint(0, 2**31, (1,), generator=generator) for _ in rollout.token_ids])
        by_version = {v: learner.logits_under(v, rollout) for v in set(rollout.token_versions.tolist())}
        logits = torch.stack([by_version[v][t] for t, v in enumerate(rollout.token_versions.tolist())])
        again = torch.ops._C.fused_gumbel_argmax(logits.contiguous(), noise).numpy()
        assert (again != rollout.token_ids).sum() <= 1  # a tie within rounding


def test_a_request_during_a_weight_sync_starts_under_the_new_version(learner: SyncingLearner):
    held = learner.engine.version
    version = learner.renew()

    async def sample() -> RolloutSet:
        await learner.engine.begin_weight_sync()
        task = asyncio.create_task(learner.engine.sample(LearnerRequest(1, "1 2 7 12 : 24 >", 2, 1, held)))
        await asyncio.sleep(0)
        assert not task.done()
        await learner.weight_sync_beside_others(version)
        return await task

    rollouts = learner.call(sample()).rollouts
    assert [(r.weight_version, r.weight_syncs) for r in rollouts] == [(version, ())] * 2
    check_logprobs(learner, rollouts)


def test_for_another_run_the_engine_is_idle_and_serves_no_old_version(learner: SyncingLearner):
    held = learner.engine.version

    async def sample() -> list[RolloutSet]:
        tasks = learner.sample_all(held)
        await learner.progress()
        await learner.engine.renew()  # as long as requests run; here nobody has cancelled them
        assert learner.engine._vllm.unfinished_requests == 0 and learner.engine.version is None
        late = asyncio.create_task(learner.engine.sample(LearnerRequest(1, "1 2 7 12 : 24 >", 2, 1, held)))
        await asyncio.sleep(0)
        assert not late.done() and learner.engine._vllm.unfinished_requests == 0
        await learner.weight_sync_beside_others(learner.renew())
        return [*await asyncio.gather(*tasks), await late]

    *_, late = learner.call(sample())
    check_logprobs(learner, late.rollouts)


def test_a_version_that_does_not_come_is_waited_for_no_longer_than_the_bound(learner: SyncingLearner):
    settings, held = learner.engine.settings, learner.engine.version
    learner.engine.settings = dataclasses.replace(settings, weight_sync_timeout_s=0.01)
    with pytest.raises(StaleWeightsError, match=f"weight version {held + 1}, but holds version {held}"):
        learner.call(learner.engine.sample(LearnerRequest(1, "1 2 7 12 : 24 >", 1, 1, held + 1)))
    learner.engine.settings = settings


def test_drain_finishes_what_runs_under_the_old_weights(learner: SyncingLearner, drain: None):
    held = learner.engine.version

    async def sample() -> list[RolloutSet]:
        tasks = learner.sample_all(held)
        await learner.progress()
        await learner.weight_sync_beside_others(learner.renew())
        return await asyncio.gather(*tasks)

    rollouts = [rollout for part in learner.call(sample()) for rollout in part.rollouts]
    assert all(r.weight_syncs == () for r in rollouts)
    assert {r.weight_version for r in rollouts} == {held, held + 1}
    check_logprobs(learner, rollouts)


def test_a_failed_weight_sync_keeps_what_was_running_for_the_next_one(learner: SyncingLearner):
    held = learner.engine.version

    async def sample() -> tuple[list[RolloutSet], dict[str, int], dict[str, int]]:
        tasks = learner.sample_all(held)
        await learner.progress()
        await learner.engine.begin_weight_sync()
        frozen = learner.generated()
        learner.sender.close()
        with pytest.raises(BroadcastError, match="update_weights"):
            await learner.engine.receive(update_info(learner.specs))
        assert learner.engine.version is None and not any(task.done() for task in tasks)
        # Whoever does not want to wait for the next one may go: stopped requests can be stopped for good.
        tasks[-1].cancel()
        await asyncio.wait(tasks[-1:])
        still = learner.generated()
        await learner.engine.check_in()
        await learner.rejoin()
        await learner.weight_sync_beside_others(learner.renew())
        return await asyncio.gather(*tasks[:-1]), frozen, still

    parts, frozen, still = learner.call(sample())
    assert len(frozen) - len(still) == 8 and still.items() <= frozen.items()
    rollouts = [rollout for part in parts for rollout in part.rollouts]
    assert len(rollouts) == ASKED - 8 and any(r.weight_syncs and r.weight_version == held for r in rollouts)
    check_logprobs(learner, rollouts)


def test_cancelling_stops_a_request_inside_the_engine(learner: SyncingLearner, monkeypatch: pytest.MonkeyPatch):
    """One request takes every place, eight times over; once it is cancelled another one runs, and it gets no token."""
    held, prompts = learner.engine.version, list(learner.engine._prompts)
    arrived: list[str] = []
    process = learner.output_processor.process_outputs

    def spy(outputs: list, *args, **kwargs):
        arrived.extend(output.request_id for output in outputs)
        return process(outputs, *args, **kwargs)

    monkeypatch.setattr(learner.output_processor, "process_outputs", spy)

    async def sample() -> tuple[set[str], RolloutSet]:
        first = asyncio.create_task(learner.engine.sample(LearnerRequest(1, prompts[0], ASKED, 1, held)))
        await learner.progress()
        cancelled = set(learner.generated())
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled() and not learner.generated()
        arrived.clear()
        return cancelled, await learner.engine.sample(LearnerRequest(1, prompts[1], PLACES, 1, held))

    cancelled, second = learner.call(sample())
    start = next(place for place, request_id in enumerate(arrived) if request_id not in cancelled)
    assert not cancelled.intersection(arrived[start:])
    check_logprobs(learner, second.rollouts)


def test_cancelling_while_its_samples_are_being_added_leaves_none_behind(learner: SyncingLearner):
    held, prompt = learner.engine.version, "1 2 7 12 : 24 >"

    async def cancel_after(turns: int) -> None:
        task = asyncio.create_task(learner.engine.sample(LearnerRequest(1, prompt, PLACES, 1, held)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not learner.generated()

    for turns in range(12):
        learner.call(cancel_after(turns))
    again = learner.call(learner.engine.sample(LearnerRequest(1, prompt, 2, 1, held)))
    check_logprobs(learner, again.rollouts)


def test_a_weight_sync_that_was_given_up_while_it_drained_leaves_the_next_broadcast_alone(
    learner: SyncingLearner, drain: None
):
    """The trainer's patience ran out: it asks who is there, and weight syncs again. Only the second weight sync may
    receive."""
    held = learner.engine.version

    async def sample() -> list[RolloutSet]:
        tasks = learner.sample_all(held)
        await learner.progress()
        late = asyncio.create_task(learner.engine.weight_sync(99, update_info(learner.specs)))
        await asyncio.sleep(0)
        await learner.engine.check_in()
        await learner.rejoin()
        await learner.weight_sync_beside_others(learner.renew())
        with pytest.raises(BroadcastError, match="gave the weight sync up"):
            await late
        return await asyncio.gather(*tasks)

    rollouts = [rollout for part in learner.call(sample()) for rollout in part.rollouts]
    assert learner.engine.version == held + 1
    assert {r.weight_version for r in rollouts} == {held, held + 1} and all(r.weight_syncs == () for r in rollouts)
    check_logprobs(learner, rollouts)
