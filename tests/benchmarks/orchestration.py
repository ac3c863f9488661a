"""Orchestration overhead: rollouts per second through scheduler, verifiers and batch assembly, and their memory.

All is real but the models: engines return stored rollouts at once, and a stand-in for a trainer's rank fetches its
groups by reference and merges them. So what is measured is what the house itself costs per rollout. A step is 64
prompts with a group of 16, half of it the explorer's, which is explored one step ahead; and, once, the paper's step of
1024 prompts. Measured on one scheduler over 1k, then 10k, then 100k rollouts: neither seconds per rollout nor the
memory of driver and scheduler should depend on how many came before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.kinds import Source
from s2l_ray.rollouts.records import Period, Prompt, Rollout, RolloutGroup, RolloutSet
from s2l_ray.rollouts.requests import ExplorerRequest, SampleRequest
from tests.benchmarks.protocol import Result

GROUP = 16
PROMPTS, PAPER_PROMPTS = 64, 1024
"""Per step."""
STEPS = (1, 10, 100)
"""Steps of 1,024 rollouts that are measured, one after the other, after WARM_UP more."""
WARM_UP = 3
TOKENS = 256
"""Per response."""
TIMEOUT_S = 120
LATEST_OF_100K = 1.2
"""Aim for seconds per rollout over 100k rollouts, as a multiple of those over 10k."""


def always_right(response: str, answer: str, question: str) -> bool:
    """The verifier that costs nothing: what is left is the way there and back."""
    return True


VERIFIERS = {"trivial": "tests.benchmarks.orchestration:always_right", "countdown": "countdown"}


def run() -> list[Result]:
    results = []
    for name, kind in VERIFIERS.items():
        with started(kind, PROMPTS, WARM_UP + sum(STEPS)) as house:
            results += _results(name, *_measure(name, house))
    with started("countdown", PAPER_PROMPTS, 3) as house:
        house.steps(1)
        seconds = house.steps(1)
        rollouts = PAPER_PROMPTS * GROUP
        print(f"   a step of {rollouts} rollouts: {seconds:.1f} s, {rollouts / seconds:.0f} rollouts/s", flush=True)
        results.append(Result("rollouts_per_second_in_one_step_of_16384", rollouts / seconds, None, "rollouts/s"))
    return results


class Measured(NamedTuple):
    rollouts: int
    seconds: float
    driver: int
    scheduler: int
    """Resident bytes at the end."""


def _measure(name: str, house: House) -> tuple[Measured, ...]:
    house.steps(WARM_UP)
    print(f"   verifier {name}\n      rollouts   rollouts/s   driver MiB   scheduler MiB", flush=True)
    found = []
    for steps in STEPS:
        seconds = house.steps(steps)
        m = Measured(steps * PROMPTS * GROUP, seconds, *house.resident())
        print(
            f"      {m.rollouts:8} {m.rollouts / m.seconds:12.0f} {m.driver / 2**20:12.1f} {m.scheduler / 2**20:15.1f}",
            flush=True,
        )
        found.append(m)
    return tuple(found)


def _results(name: str, few: Measured, some: Measured, many: Measured) -> list[Result]:
    cost = (many.seconds / many.rollouts) / (some.seconds / some.rollouts)
    return [
        Result(f"orchestrated_rollouts_per_second_{name}", many.rollouts / many.seconds, None, "rollouts/s"),
        Result(f"orchestrated_rollouts_per_second_{name}_1k", few.rollouts / few.seconds, None, "rollouts/s"),
        Result(f"cost_per_rollout_100k_over_10k_{name}", cost, LATEST_OF_100K, "ratio"),
        Result(f"driver_memory_100k_over_10k_{name}", many.driver / some.driver, 1.1, "ratio"),
        Result(f"scheduler_memory_100k_over_10k_{name}", many.scheduler / some.scheduler, 1.1, "ratio"),
    ]


class InstantEngine:
    """Returns the first rollouts of those it has stored of a prompt; an actor of asynchronous calls, as engines are."""

    def __init__(self, source: Source, prompts: dict[str, Prompt], solutions: dict[str, str]) -> None:
        self._prompts = prompts
        self._stored = {prompt_id: _stored(prompt_id, source, text) for prompt_id, text in solutions.items()}

    async def sample(self, request: SampleRequest) -> tuple[RolloutSet, Period]:
        now = time.time()
        prompt = self._prompts[request.prompt_id]
        rollouts = self._stored[prompt.id][: request.count]
        if not isinstance(request, ExplorerRequest):
            rollouts = [replace(rollout, weight_version=request.weight_version) for rollout in rollouts]
        period = Period(now, time.time())
        return RolloutSet(prompt.id, prompt.token_ids, rollouts, period), period


class StandInRank:
    """Fetches its share of a step as a trainer's rank does."""

    def update(self, mini_batches: list[list[Any]]) -> int:
        import ray

        groups = [RolloutGroup.merge(ray.get(g.parts, timeout=TIMEOUT_S), GROUP) for b in mini_batches for g in b]
        return sum(len(group.rollouts) for group in groups)


class House:
    """Scheduler, engines, verifiers and a rank, as a run has them."""

    def __init__(self, kind: str, prompts_per_step: int, steps: int) -> None:
        import ray

        from actors.calls import TOKENS_ASIDE
        from actors.scheduler import Scheduler
        from actors.scheduler_settings import PipelineLimits, SchedulerSettings
        from actors.verifier import Verifier
        from s2l_ray.rollouts.step_planner import StepPlanner
        from s2l_ray.schedule import Schedule

        prompts, solutions = _problems(prompts_per_step)
        schedule = Schedule("constant", GROUP, 1, Fraction(1, 2))
        planner = StepPlanner(list(prompts), schedule, prompts_per_step, seed=1, explorer_seed=1)
        shared = ray.put(prompts)
        ray.method(num_returns=2)(InstantEngine.sample)
        engine = ray.remote(num_cpus=0, runtime_env={"env_vars": TOKENS_ASIDE})(InstantEngine)
        engines = {source: {0: engine.remote(source, shared, solutions)} for source in ("explorer", "learner")}
        verifiers = [Verifier.remote(kind, 5.0, shared) for _ in range(2)]
        pipeline = PipelineLimits(1, 2**30, TOKENS * 16, 0, {"explorer": 512, "learner": 512}, {})
        self._scheduler = Scheduler.remote(
            SchedulerSettings(planner, steps, pipeline, 0, 1, 32, TIMEOUT_S, engines, dict(enumerate(verifiers)))
        )
        self._rank = ray.remote(num_cpus=0)(StandInRank).remote()
        self._step = 0
        self._expected = prompts_per_step * GROUP
        ray.get([v.ready.remote() for v in verifiers] + [self._scheduler.release.remote(0)], timeout=TIMEOUT_S)
        self._pid = ray.get(self._scheduler.__ray_call__.remote(_pid), timeout=TIMEOUT_S)

    def steps(self, count: int) -> float:
        """Seconds that so many steps take."""
        start = time.perf_counter()
        for _ in range(count):
            self._step += 1
            self._turn(self._step)
        return time.perf_counter() - start

    def _turn(self, step: int) -> None:
        """What the driver does in a step, but for the update: collect, digest, train, weight sync."""
        import ray

        from s2l_ray.results import SourceStats
        from s2l_ray.rollouts.step_planner import step_digest

        batch = ray.get(self._scheduler.collect.remote(step), timeout=TIMEOUT_S)
        trained = self._rank.update.remote(batch.assignment[0])
        stats = [SourceStats.of(row for row in batch.summaries if row.source == s) for s in ("explorer", "learner")]
        assert step_digest(batch.summaries) and sum(s.rollouts for s in stats) == self._expected
        assert ray.get(trained, timeout=TIMEOUT_S) == self._expected
        ray.get(self._scheduler.hold.remote(), timeout=TIMEOUT_S)
        ray.get(self._scheduler.release.remote(step), timeout=TIMEOUT_S)

    def resident(self) -> tuple[int, int]:
        return _resident(os.getpid()), _resident(self._pid)


@contextmanager
def started(kind: str, prompts_per_step: int, steps: int) -> Iterator[House]:
    """A house on a private Ray that ends with it."""
    import ray

    from actors.connection import connect

    connect(None)
    try:
        yield House(kind, prompts_per_step, steps)
    finally:
        ray.shutdown()


def _problems(count: int) -> tuple[dict[str, Prompt], dict[str, str]]:
    """Countdown problems and a right response to each, by prompt id."""
    from s2l_ray.miniature.countdown import generate

    rng = np.random.default_rng(0)
    problems = {f"p{i}": problem for i, problem in enumerate(generate(count, "train", seed=1))}
    prompts = {
        prompt_id: Prompt(prompt_id, p.question, p.prompt, rng.integers(0, 99, 64).astype(np.int32), p.question)
        for prompt_id, p in problems.items()
    }
    return prompts, {prompt_id: problem.trace for prompt_id, problem in problems.items()}


def _stored(prompt_id: str, source: Source, solution: str) -> list[Rollout]:
    """Rollouts of which every other one is right."""
    rng = np.random.default_rng(0)
    return [
        Rollout(
            prompt_id=prompt_id,
            source=source,
            model="stored",
            weight_version=0,
            index=index,
            token_ids=rng.integers(0, 99, TOKENS).astype(np.int32),
            logprobs=np.full(TOKENS, -1.0, np.float32),
            text=solution if index % 2 else solution.replace("=", "= 1"),
            finish_reason="stop",
        )
        for index in range(GROUP)
    ]


def _pid(_: Any) -> int:
    return os.getpid()


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
