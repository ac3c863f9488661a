"""The scheduler's actor between engines that do what a test tells them to and real verifiers, on a real Ray."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import ray

from actors.bank_client import BankClient
from actors.calls import fetch
from actors.connection import connect
from actors.dispatcher import Dispatcher
from actors.request_batch import RequestBatch
from actors.scheduler import Scheduler
from actors.scheduler_settings import PipelineLimits, SchedulerSettings
from actors.verifier import Verifier
from s2l_ray.bank.writer import Receipt
from s2l_ray.errors import EngineAsleepError, GroupError, StepTimeoutError
from s2l_ray.rollouts.dispatch import WorkerPool
from s2l_ray.rollouts.records import Period, Prompt, Rollout, RolloutGroup, RolloutSet, report_on
from s2l_ray.rollouts.requests import LearnerRequest
from s2l_ray.rollouts.step_planner import StepPlanner
from s2l_ray.schedule import Schedule
from s2l_ray.tasks.verifiers import VerifierError
from tests.support.killed import kill
from tests.support.patience import PATIENCE_S

PROMPTS = {f"p{i}": Prompt(f"p{i}", "q", "q", np.arange(3, dtype=np.int32), "0") for i in range(24)}
G, PER_STEP = 4, 6


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    connect(None)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def verifiers():
    pool = [Verifier.remote("tests.support.rewards:first_number_is_even", 5.0, PROMPTS) for _ in range(2)]
    fetch([verifier.ready.remote() for verifier in pool], PATIENCE_S, "verifiers")
    return pool


@pytest.fixture
def start(verifiers):
    """Starts schedulers that are stopped after the test."""
    actors = []

    def scheduler_and_engines(*args, **kwargs):
        actors.extend(started := start_with(verifiers, *args, **kwargs))
        return started

    yield scheduler_and_engines
    for actor in actors:
        ray.kill(actor)


@ray.remote(num_cpus=0)
class Engine:
    """Answers at once, or when a test lets it: requests of held prompts wait, and say when they are cancelled."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, int, int | None]] = []
        self.stopped: list[str] = []
        self.late: dict[int, list[int]] = {}
        self.held: set[str] = set()
        self.let_go = asyncio.Event()
        self.refused, self.asleep = 0, False

    async def hold(self, prompt_ids: list[str]) -> None:
        self.held = set(prompt_ids)
        self.let_go.clear()

    async def release(self) -> None:
        self.held.clear()
        self.let_go.set()

    async def sleep(self, asleep: bool) -> int:
        """Fall asleep or wake. Returns how many requests it has refused."""
        self.asleep = asleep
        return self.refused

    async def be_late(self, step: int, versions: int, times: int) -> None:
        """Pretend so often that a request of this step was sampled with weights so many versions older."""
        self.late[step] = [versions] * times

    async def log(self) -> tuple[list, list]:
        return self.asked, self.stopped

    @ray.method(num_returns=2)
    async def sample(self, request):
        if self.asleep:
            self.refused += 1
            raise EngineAsleepError("the engine is asleep")
        weight_version = getattr(request, "weight_version", None)
        self.asked.append((request.step, request.prompt_id, request.count, weight_version))
        if request.prompt_id in self.held:
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.stopped.append(request.prompt_id)
                raise
        late = self.late.get(request.step)
        version = (weight_version or 0) - (late.pop() if late else 0)
        rollouts = [rollout(request, k, version) for k in range(request.count)]
        period = Period(1.0, 2.0)
        return RolloutSet(request.prompt_id, PROMPTS[request.prompt_id].token_ids, rollouts, period), period


def rollout(request, index: int, version: int) -> Rollout:
    tokens = np.array([request.first_seed % 10007, index], dtype=np.int32)
    text = str((request.first_seed + index) % 7)
    return Rollout(request.prompt_id, request.source, "m", version, index, tokens, tokens * 0.0, text, "stop")


@ray.remote(num_cpus=0)
class MemoryBank:
    """Holds what it was given, as the bank's actor does."""

    def __init__(self) -> None:
        self.sets: dict = {}

    def covers(self, requests) -> list[bool]:
        return [(r.prompt_id, r.first_draw, r.count) in self.sets for r in requests]

    @ray.method(num_returns=2)
    def read(self, request):
        found = replace(self.sets[request.prompt_id, request.first_draw, request.count], sampled=None)
        return found, report_on(found, None)

    def record(self, request, scored) -> Receipt:
        self.sets[request.prompt_id, request.first_draw, request.count] = scored
        return Receipt(len(self.sets), len(self.sets))


def start_with(verifiers, *args, **changes):
    explorer, learner = Engine.remote(), Engine.remote()
    return Scheduler.remote(settings_with(verifiers, explorer, learner, *args, **changes)), explorer, learner


def settings_with(
    verifiers, explorer, learner, schedule=None, bank=None, mode="readwrite", timeout_s=PATIENCE_S, steps=6, **pipeline
):
    settings = {
        "prefetch_steps": 1,
        "prefetch_bytes": 10**9,
        "bytes_per_rollout": 100,
        "max_staleness": 0,
        "capacity": {"explorer": 1000, "learner": 1000},
        "stragglers": {},
    } | pipeline
    extra = settings.pop("extra", 0)
    schedule = schedule or Schedule("linear", G, 5)
    return SchedulerSettings(
        StepPlanner(list(PROMPTS), schedule, PER_STEP, 1, 1, extra),
        steps=steps,
        pipeline=PipelineLimits(**settings),
        refill_rounds=0,
        ranks=2,
        mini_batch_prompts=3,
        timeout_s=timeout_s,
        engines={"explorer": {0: explorer}, "learner": {0: learner}},
        verifiers=dict(enumerate(verifiers)),
        bank=bank,
        reads=bank is not None and mode in ("read", "readwrite"),
        records=bank is not None and mode in ("write", "readwrite"),
    )


def release(scheduler, version):
    fetch(scheduler.release.remote(version), PATIENCE_S, "release")


def collect(scheduler, step):
    return fetch(scheduler.collect.remote(step), PATIENCE_S, "collect")


def asked(engine):
    return fetch(engine.log.remote(), PATIENCE_S, "log")[0]


def wait_until(condition, what: str):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def steps_of(engine):
    return sorted({step for step, *_ in asked(engine)})


def test_groups_reach_the_ranks_whole_and_balanced(start):
    scheduler, *_ = start()
    release(scheduler, 0)
    batch = collect(scheduler, 1)
    assert len(batch.summaries) == PER_STEP * G
    assert [len(mini) for rank in batch.assignment for mini in rank] in ([2, 2, 1, 1], [1, 1, 2, 2], [2, 1, 1, 2])
    groups = [RolloutGroup.merge(ray.get(g.parts), G) for rank in batch.assignment for mini in rank for g in mini]
    assert sorted(group.prompt_id for group in groups) == sorted(batch.prompts)
    release(scheduler, 1)
    mixed = collect(scheduler, 2)
    assert {(row.source, row.index) for row in mixed.summaries} == {
        *(("explorer", k) for k in range(3)),
        ("learner", 0),
    }
    assert mixed.spans.keys() == {"explore", "learner_generate"}


def test_the_explorer_works_ahead_of_the_steps_within_its_buffer(start):
    scheduler, explorer, _ = start(prefetch_steps=2)
    release(scheduler, 0)
    collect(scheduler, 1)
    wait_until(lambda: steps_of(explorer) == [1, 2, 3], "steps 2 and 3 are explored while step 1 is trained on")
    narrow, explorer, _ = start(prefetch_steps=2, prefetch_bytes=700)
    release(narrow, 0)
    fetch(explorer.hold.remote(list(PROMPTS)), PATIENCE_S, "hold")
    collecting = narrow.collect.remote(1)
    wait_until(lambda: len(asked(explorer)) == PER_STEP + 2, "two requests of step 2, 300 bytes each, have room")
    fetch(explorer.release.remote(), PATIENCE_S, "release")
    batch = fetch(collecting, PATIENCE_S, "collect")
    assert batch.prefetched_bytes <= 700
    # What is finished takes far less than its largest size, so that the rest of step 2 finds room.
    wait_until(lambda: [step for step, *_ in asked(explorer)].count(2) == PER_STEP, "the rest of step 2")


def test_learner_requests_wait_for_the_weight_sync_and_carry_its_version(start):
    scheduler, _, learner = start(Schedule("off", G, 5))
    release(scheduler, 0)
    collect(scheduler, 1)
    fetch(scheduler.hold.remote(["learner"]), PATIENCE_S, "hold")
    collecting = scheduler.collect.remote(2)
    time.sleep(0.3)
    assert steps_of(learner) == [1]
    release(scheduler, 1)
    batch = fetch(collecting, PATIENCE_S, "collect")
    assert {row.weight_version for row in batch.summaries} == {1}
    assert {version for step, _, _, version in asked(learner) if step == 2} == {1}


def test_a_weight_sync_holds_requests_that_the_old_weights_could_answer(start):
    scheduler, _, learner = start(Schedule("off", G, 5), max_staleness=1)
    release(scheduler, 0)
    fetch(scheduler.hold.remote(["learner"]), PATIENCE_S, "hold")
    collecting = scheduler.collect.remote(1)
    time.sleep(0.3)
    assert asked(learner) == []
    release(scheduler, 1)
    assert {row.weight_version for row in fetch(collecting, PATIENCE_S, "collect").summaries} == {1}


def test_engines_that_sleep_get_no_requests_and_one_that_was_on_its_way_is_sent_again(start):
    undisturbed, *_ = start()
    release(undisturbed, 0)
    scheduler, explorer, _ = start()
    release(scheduler, 0)
    fetch(scheduler.hold.remote(["explorer", "learner"]), PATIENCE_S, "hold")
    collecting = scheduler.collect.remote(1)
    time.sleep(0.3)
    assert asked(explorer) == []
    fetch(explorer.sleep.remote(True), PATIENCE_S, "sleep")
    release(scheduler, 0)  # as if they had been on their way
    wait_until(lambda: fetch(explorer.sleep.remote(True), PATIENCE_S, "sleep") > 0, "a request is refused")
    fetch(explorer.sleep.remote(False), PATIENCE_S, "wake")
    batch = fetch(collecting, PATIENCE_S, "collect")
    assert digests(batch) == digests(collect(undisturbed, 1)) and batch.redone == 0


def test_with_staleness_the_learner_works_ahead_with_the_weights_there_are(start):
    scheduler, _, learner = start(Schedule("off", G, 5), max_staleness=1)
    release(scheduler, 0)
    collect(scheduler, 1)
    wait_until(lambda: steps_of(learner) == [1, 2], "step 2 is sampled while step 1 is trained on")
    release(scheduler, 1)
    batch = collect(scheduler, 2)
    assert {row.weight_version for row in batch.summaries} == {0}
    assert steps_of(learner) in ([1, 2], [1, 2, 3])
    # Step 4 needs version 2, which is not in.
    collecting = scheduler.collect.remote(3)
    wait_until(lambda: 3 in steps_of(learner), "step 3")
    time.sleep(0.3)
    assert 4 not in steps_of(learner)
    release(scheduler, 2)
    fetch(collecting, PATIENCE_S, "collect")


def test_what_is_too_old_is_dropped_counted_and_sampled_again(start):
    scheduler, _, learner = start(Schedule("off", G, 5), max_staleness=1)
    release(scheduler, 3)
    fetch(learner.be_late.remote(4, 2, times=1), PATIENCE_S, "late")
    batch = collect(scheduler, 4)
    assert batch.stale_dropped == G
    assert {row.weight_version for row in batch.summaries} == {3}
    assert len([1 for step, *_ in asked(learner) if step == 4]) == PER_STEP + 1


def test_an_engine_that_is_always_too_old_is_an_error(start):
    scheduler, _, learner = start(Schedule("off", G, 5))
    release(scheduler, 5)
    fetch(learner.be_late.remote(6, 2, times=100), PATIENCE_S, "late")
    with pytest.raises(GroupError, match=r"twice with weights older than the allowed version 5 .*max_staleness: 0"):
        collect(scheduler, 6)


def test_stragglers_are_stopped_and_left_out_and_the_same_ones_again(start):
    scheduler, explorer, learner = start(extra=2, max_staleness=0)
    release(scheduler, 1)
    planner = StepPlanner(list(PROMPTS), Schedule("linear", G, 5), PER_STEP, 1, 1, 2)
    slow = [planner.sampled_prompts(2)[1], planner.sampled_prompts(2)[7]]
    fetch(explorer.hold.remote(slow), PATIENCE_S, "hold")
    batch = collect(scheduler, 2)
    assert batch.stragglers == slow
    assert batch.prompts == [p for p in planner.sampled_prompts(2) if p not in slow]
    wait_until(
        lambda: sorted(fetch(explorer.log.remote(), PATIENCE_S, "log")[1])[:2] == sorted(slow), "they are stopped"
    )

    again, *_ = start(extra=2, stragglers={2: slow})
    release(again, 1)
    repeated = collect(again, 2)
    assert (repeated.prompts, repeated.stragglers) == (batch.prompts, [])
    assert sorted((r.prompt_id, r.source, r.index, r.digest) for r in repeated.summaries) == sorted(
        (r.prompt_id, r.source, r.index, r.digest) for r in batch.summaries
    )


def test_what_the_bank_has_is_not_explored_again(start):
    bank = MemoryBank.remote()
    live, explorer, _ = start(bank=bank)
    release(live, 1)
    first = collect(live, 2)
    assert first.banked == 0
    other, silent, _ = start(bank=bank, prefetch_steps=0)
    release(other, 1)
    second = collect(other, 2)
    assert second.banked == PER_STEP * 3 and second.banked_prompts == set(second.prompts)
    assert asked(silent) == []
    assert [r.digest for r in second.summaries] == [r.digest for r in first.summaries]
    assert {span.track for span in second.work} >= {"bank", "learner 0"}


def test_a_step_that_takes_too_long_says_what_is_missing(start):
    scheduler, explorer, _ = start(timeout_s=1.0)
    release(scheduler, 1)
    fetch(explorer.hold.remote(["p1", *PROMPTS]), PATIENCE_S, "hold")
    with pytest.raises(StepTimeoutError, match="step 2: 6 of 6 explorer requests did not finish within 1 s"):
        collect(scheduler, 2)


def test_a_run_that_goes_back_asks_again(start):
    scheduler, _, learner = start(Schedule("off", G, 5), max_staleness=1)
    release(scheduler, 0)
    collect(scheduler, 1)
    wait_until(lambda: steps_of(learner) == [1, 2], "step 2 ahead")
    fetch(scheduler.restore_schedule.remote({}), PATIENCE_S, "restore_schedule")
    release(scheduler, 1)
    batch = collect(scheduler, 2)
    assert {row.weight_version for row in batch.summaries} == {1}


def test_for_another_run_nothing_of_the_old_one_is_left(start, verifiers):
    scheduler, explorer, learner = start(max_staleness=2)
    fetch(learner.hold.remote(list(PROMPTS)), PATIENCE_S, "hold")
    release(scheduler, 5)
    under_way = [scheduler.collect.remote(2), scheduler.evaluate.remote(["p3"], "learner", 2)]
    wait_until(lambda: 2 in steps_of(learner), "requests of the old run")
    fetch(scheduler.rest.remote(), PATIENCE_S, "rest")
    for call in under_way:
        with pytest.raises(ray.exceptions.RayError):
            ray.get(call, timeout=PATIENCE_S)
    sent, _ = fetch(learner.log.remote(), PATIENCE_S, "log")
    wait_until(lambda: len(fetch(learner.log.remote(), PATIENCE_S, "log")[1]) == len(sent), "they are cancelled")
    fetch(learner.release.remote(), PATIENCE_S, "let go")

    other = Schedule("constant", G, 1, Fraction(1, 2))
    fetch(scheduler.begin.remote(settings_with(verifiers, explorer, learner, other)), PATIENCE_S, "begin")
    release(scheduler, 0)
    batch = collect(scheduler, 1)
    fresh, *_ = start(schedule=other)
    release(fresh, 0)
    assert batch.summaries == collect(fresh, 1).summaries
    assert {row.weight_version for row in batch.summaries} == {0} and batch.work and not batch.stale_dropped


def test_a_verifier_that_raises_on_all_of_its_first_answers_is_an_error():
    verifier = Verifier.remote("tests.support.rewards:raises", 20.0, PROMPTS)
    request = LearnerRequest(1, "p0", 32, 0, 0)
    sampled = RolloutSet("p0", PROMPTS["p0"].token_ids, [rollout(request, k, 0) for k in range(32)])
    _, report = verifier.verify.remote(sampled)
    (report,) = fetch([report], 60, "a verifier")
    assert [row.status for row in report.rows] == ["failed"] * 32
    with pytest.raises(VerifierError, match=r"raises failed on each of its first 64 answers.*NameError.*rewards.py"):
        fetch([verifier.verify.remote(sampled)[1]], 60, "a verifier")
    ray.kill(verifier)


# ---- workers that die -----------------------------------------------------------------------------------------------


def digests(batch) -> list:
    return sorted((r.prompt_id, r.source, r.index, r.digest, r.reward) for r in batch.summaries)


def test_what_a_dead_engine_was_sampling_another_one_samples_with_the_same_seeds(start):
    undisturbed, *_ = start()
    release(undisturbed, 1)
    scheduler, explorer, learner = start()
    other = Engine.remote()
    fetch(scheduler.add.remote("explorer", 1, other), PATIENCE_S, "add")
    release(scheduler, 1)
    fetch(explorer.hold.remote(list(PROMPTS)), PATIENCE_S, "hold")
    collecting = scheduler.collect.remote(2)
    wait_until(lambda: asked(explorer), "a request of the engine that is to die")
    kill(explorer)
    batch = fetch(collecting, PATIENCE_S, "collect")
    assert digests(batch) == digests(collect(undisturbed, 2))
    assert batch.redone > 0
    assert fetch(scheduler.progress.remote(), PATIENCE_S, "progress").suspects == [("explorer", 0)]
    assert fetch(scheduler.progress.remote(), PATIENCE_S, "progress").suspects == []  # they are told once


def test_with_no_engine_left_requests_wait_for_the_next_one(start):
    undisturbed, *_ = start()
    release(undisturbed, 1)
    scheduler, _, learner = start()
    release(scheduler, 1)
    kill(learner)
    collecting = scheduler.collect.remote(2)
    wait_until(lambda: fetch(scheduler.progress.remote(), PATIENCE_S, "progress").suspects, "it is noticed")
    fetch(scheduler.drop.remote("learner", 0), PATIENCE_S, "drop")
    fetch(scheduler.add.remote("learner", 0, Engine.remote()), PATIENCE_S, "add")
    assert digests(fetch(collecting, PATIENCE_S, "collect")) == digests(collect(undisturbed, 2))


def test_a_new_scheduler_collects_what_the_old_one_was_collecting(start):
    scheduler, explorer, learner = start()
    release(scheduler, 1)
    kill(scheduler)
    undisturbed, *_ = start()
    release(undisturbed, 1)
    verifier = Verifier.remote("tests.support.rewards:first_number_is_even", 5.0, PROMPTS)
    settings = replace(settings_with([verifier], explorer, learner), version=1, observed={1: (2, 3)})
    again = Scheduler.remote(settings)
    assert digests(collect(again, 2)) == digests(collect(undisturbed, 2))


@ray.remote(num_cpus=0)
class Fatal:
    """Dies of every set that it is to check."""

    @ray.method(num_returns=2)
    def verify(self, rollouts):
        os._exit(1)


@pytest.mark.parametrize(("dying", "status"), [(2, "right or wrong"), (3, "timeout")])
def test_a_set_is_checked_again_twice_and_counts_as_timed_out_after_that(dying: int, status: str, verifiers):
    request = LearnerRequest(2, "p1", 3, 1)
    pool = {number: Fatal.remote() for number in range(dying)} | {dying: verifiers[0]}

    async def roll_out():
        learner = WorkerPool({0: Engine.remote()})
        learner.release(0)
        dispatcher = Dispatcher({"learner": learner}, pool, BankClient(None), False, False, PATIENCE_S)
        part = await dispatcher.roll_out(request, RequestBatch())
        return part.rows, dispatcher.take_suspects(), dispatcher.take_redone()

    rows, suspects, redone = asyncio.run(roll_out())
    assert {row.status for row in rows} <= ({"timeout"} if status == "timeout" else {"right", "wrong"})
    assert (len(rows), suspects, redone) == (3, [("verifier", number) for number in range(dying)], dying)
