"""A run as a discrete-event simulation: the actor graph of `actors/`, its work given by `Constants`.

What is modelled, as it is done: the driver collects a step's groups, updates and syncs weights, one after the other;
explorer requests of the next `rollout.prefetch_steps` steps go out once the present step's explorer part is done;
learner requests go out when collecting begins; a request goes to the engine of its kind with the fewest rollouts
outstanding, and from there to such a verifier; engines batch continuously; whole groups are balanced over the ranks of
every optimizer step; engines sleep beside the trainer; engines that are handed over join between two steps.
`scope` says what is refused and what is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import simpy

from s2l_ray.kinds import ActivityKind, Source
from s2l_ray.placement.plan import EngineSlot, Layout, PhaseSlots
from s2l_ray.placement.recomputation import as_planned
from s2l_ray.planner.simulate.constants import Constants
from s2l_ray.planner.simulate.scope import check_config, left_out
from s2l_ray.planner.simulate.simulated_actors import (
    Cores,
    Journal,
    Process,
    Request,
    SimulatedEngine,
    SimulatedVerifier,
)
from s2l_ray.planner.simulate.simulated_run import SimulatedStep, Simulation
from s2l_ray.planner.workload import Split, phases, workload
from s2l_ray.rollouts.step_planner import balance, mini_batches
from s2l_ray.seeds import generator

if TYPE_CHECKING:
    from s2l_ray.config import Config

SOURCES: tuple[Source, ...] = ("explorer", "learner")


def sample_steps(config: Config, per_phase: int = 3) -> list[int]:
    """Some steps of each phase of the schedule, evenly spread, its first and last among them."""
    chosen = [np.linspace(p.first_step, p.last_step, min(per_phase, p.steps)) for p in phases(config)]
    return sorted({round(float(step)) for steps in chosen for step in steps})


def simulate(
    config: Config,
    layout: Layout,
    constants: Constants,
    steps: Sequence[int] | None = None,
    trained: Mapping[int, float] | None = None,
) -> Simulation:
    """Run the steps of `config` on `layout`. Equal arguments give equal results.

    Args:
        steps: some of the schedule's steps, ascending, simulated as if they followed each other; default: all.
        trained: tokens, prompts included, that each step trains on, where they are known; default: as
            `constants.solved` draws them.

    Raises:
        ConfigError: the configuration has something that is not simulated.
    """
    check_config(config)
    chosen = list(steps) if steps is not None else list(range(1, config.schedule.steps + 1))
    return _SimulatedRun(config, layout, constants, chosen, trained or {}).run()


def evaluation_seconds(config: Config, layout: Layout, constants: Constants, problems: int, samples: int) -> float:
    """Sampling and verifying `samples` responses to each of this many problems, on the last phase's learner engines."""
    return _SimulatedRun(config, layout, constants, [], {}).evaluate(problems, samples)


class _SimulatedRun:
    """The driver, and what it has to know of the other actors."""

    def __init__(
        self, config: Config, layout: Layout, constants: Constants, steps: list[int], trained: Mapping[int, float]
    ) -> None:
        self._config, self._layout, self._constants = config, layout, constants
        self._steps, self._trained = steps, trained
        self._env = simpy.Environment()
        self._journal = Journal()
        self._schedule = config.schedule.build(config.rollout.group_size).nominal()
        self._work = workload(as_planned(config, layout), cuda=layout.device == "gpu")
        self._cores = {bundle.node: Cores(self._env, constants.cores) for bundle in layout.bundles}
        self._phase: PhaseSlots | None = None
        self._engines: dict[tuple[str, int], SimulatedEngine] = {}
        self._exploring: dict[int, tuple[float, list[simpy.Process]]] = {}
        host = next(iter(self._cores.values()))
        self._verifiers = [
            SimulatedVerifier(
                self._env,
                f"verifier {number}",
                constants.verify_request_s,
                constants.verify_rollout_s,
                host,
                self._journal,
            )
            for number in range(config.verifier.workers)
        ]
        self._done: list[SimulatedStep] = []

    def run(self) -> Simulation:
        self._env.run(self._env.process(self._drive()))
        return Simulation(tuple(self._done), tuple(self._journal.activities), left_out(self._config))

    def evaluate(self, problems: int, samples: int) -> float:
        for slot in self._layout.phases[-1].engines_of("learner"):
            self._engines[slot.role, slot.index] = self._engine(slot, 0.0, 0)
        rng = generator(self._config.seed, 0)
        lengths = rng.choice(np.array(self._constants.lengths["learner"]), size=(problems, samples)).tolist()
        tasks = [self._env.process(self._roll_out(0, "learner", row)) for row in lengths]
        self._env.run(simpy.AllOf(self._env, tasks))
        seconds: float = self._env.now
        return seconds

    # ---- the driver ------------------------------------------------------------------------------------------------

    def _drive(self) -> Process[None]:
        for step in self._steps:
            phase = yield from self._hand_over(step)
            start = self._env.now
            seconds: dict[str, float] = {}
            spans = yield from self._collect(step, phase)
            seconds["rollout"] = self._env.now - start
            if self._layout.sleep:
                seconds["sleep_wake"] = yield from self._on_trainers(
                    "sleep_wake", step, phase, self._constants.sleep_wake_s
                )
            seconds["update"] = yield from self._on_trainers("update", step, phase, self._update_s(step, phase))
            seconds["weight_sync"] = yield from self._on_trainers(
                "weight_sync", step, phase, self._constants.weight_sync_s
            )
            seconds["total"] = self._env.now - start
            self._done.append(SimulatedStep(step, phase.name, start, seconds, spans))

    def _hand_over(self, step: int) -> Process[PhaseSlots]:
        """Change to the engines of the step's phase: wait for requests of those that stop and the start of others."""
        phase = self._layout.phase_at(step)
        if phase is not self._phase:
            slots = {(slot.role, slot.index): slot for slot in phase.engines}
            leaving = [engine for key, engine in self._engines.items() if key not in slots]
            while any(engine.load for engine in leaving):
                yield simpy.AnyOf(self._env, self._outstanding())
            start_s = 0.0 if self._phase is None else self._constants.engine_start_s
            self._engines = {
                key: self._engines.get(key) or self._engine(slot, start_s, step) for key, slot in slots.items()
            }
            self._phase = phase
        late = [engine.ready_at for source in self._needed(step) for engine in self._soonest(source)]
        if late and max(late) > self._env.now:
            yield self._env.timeout(max(late) - self._env.now)
        return phase

    def _outstanding(self) -> list[simpy.Process]:
        return [task for _, tasks in self._exploring.values() for task in tasks if task.is_alive]

    def _engine(self, slot: EngineSlot, start_s: float, step: int) -> SimulatedEngine:
        name, now = f"{slot.role} {slot.index}", self._env.now
        if start_s:
            self._journal.add(name, "start", step, now, now + start_s)
        cores = self._cores[self._layout.bundles[slot.bundle].node]
        constants = self._constants.engines[slot.role]
        return SimulatedEngine(self._env, name, slot.role, constants, cores, self._journal, start_s)

    def _needed(self, step: int) -> list[Source]:
        return [source for source in SOURCES if self._sampled(step, source)]

    def _soonest(self, source: Source) -> list[SimulatedEngine]:
        """The engine that the step has to wait for if none of its kind is ready."""
        return sorted((e for e in self._engines.values() if e.source == source), key=lambda e: e.ready_at)[:1]

    # ---- collecting ------------------------------------------------------------------------------------------------

    def _collect(self, step: int, phase: PhaseSlots) -> Process[dict[str, float]]:
        """Returns the spans."""
        spans: dict[str, float] = {}
        in_turn = any(map(self._layout.shares_gpus_with_trainer, phase.engines_of("explorer")))
        begun, exploring = self._explore(step)
        learning = [] if in_turn else self._dispatch(step, "learner")
        sent = self._env.now
        if exploring:
            yield simpy.AllOf(self._env, exploring)
            spans["explore"] = max(task.value for task in exploring) - begun
        del self._exploring[step]
        if in_turn:  # explorer and learner engines share devices with each other too
            sent, learning = self._env.now, self._dispatch(step, "learner")
        else:
            at = self._steps.index(step)
            for coming in self._steps[at + 1 : at + 1 + self._config.rollout.prefetch_steps]:
                self._explore(coming)
        if learning:
            yield simpy.AllOf(self._env, learning)
            spans["learner_generate"] = self._env.now - sent
        if self._constants.step_s:
            yield self._env.timeout(self._constants.step_s)
        return spans

    def _explore(self, step: int) -> tuple[float, list[simpy.Process]]:
        """When the step's explorer requests were sent, and the requests; sends them unless they were."""
        if step not in self._exploring:
            self._exploring[step] = self._env.now, self._dispatch(step, "explorer")
        return self._exploring[step]

    def _dispatch(self, step: int, source: Source) -> list[simpy.Process]:
        if not self._sampled(step, source):
            return []
        lengths = self._lengths(step, source)
        return [self._env.process(self._roll_out(step, source, row)) for row in lengths.tolist()]

    def _roll_out(self, step: int, source: Source, lengths: list[int]) -> Process[float]:
        """Sample, then verify. Returns the time at which it was done."""
        ready = [e for e in self._engines.values() if e.source == source and e.ready_at <= self._env.now]
        engine = min(ready, key=lambda e: e.load)
        verifier = min(self._verifiers, key=lambda v: v.load)
        for actor in (engine, verifier):
            actor.load += len(lengths)
        request = Request(step, lengths, self._env.event())
        engine.submit(request)
        yield request.sampled
        yield from verifier.check(request)
        for actor in (engine, verifier):
            actor.load -= len(lengths)
        done: float = self._env.now
        return done

    def _lengths(self, step: int, source: Source) -> np.ndarray:
        """Response tokens, int [prompts, rollouts of this source]: the same on every layout."""
        rng = generator(self._config.seed, step, SOURCES.index(source))
        shape = (self._work.prompts, self._count(step, source))
        if shape[1] == 0:  # a source that never samples has no lengths to draw from
            return np.empty(shape, int)
        return rng.choice(np.array(self._constants.lengths[source]), size=shape)

    def _sampled(self, step: int, source: Source) -> int:
        """Rollouts of a group that this source's engines sample."""
        return 0 if source == "explorer" and self._work.banked else self._count(step, source)

    def _count(self, step: int, source: Source) -> int:
        split = self._schedule.split(step)
        return split.explorer if source == "explorer" else split.learner

    # ---- the trainer -----------------------------------------------------------------------------------------------

    def _on_trainers(self, kind: ActivityKind, step: int, phase: PhaseSlots, seconds: float) -> Process[float]:
        """All ranks work together. Returns the seconds that it took."""
        start = self._env.now
        ranks = phase.trainers
        nodes = [self._layout.bundles[slot.bundle].node for slot in ranks]
        yield simpy.AllOf(self._env, [self._cores[node].work(seconds).done for node in nodes])
        for rank in ranks:
            self._journal.add(f"trainer {rank.index}", kind, step, start, self._env.now)
        taken: float = self._env.now - start
        return taken

    def _update_s(self, step: int, phase: PhaseSlots) -> float:
        split = Split(self._count(step, "explorer"), self._count(step, "learner"), 1)
        ranks = len(phase.trainers)
        busiest = self._trained[step] / ranks if step in self._trained else self._busiest(step, ranks)
        fetched = math.ceil(self._work.prompts / ranks) * self._work.group_size
        return (
            fetched * self._constants.train_rollout_s
            + self._work.optimizer_steps(split) * self._constants.optimizer_s
            + self._work.forwards(split) * busiest * self._constants.pass_token_s
        )

    def _busiest(self, step: int, ranks: int) -> float:
        """Tokens that the step waits for: every optimizer step waits for the rank with most of them."""
        held, trained = self._tokens(step)
        busiest = 0.0
        for batch in mini_batches(self._work.prompts, self._work.mini_batch_prompts):
            shares = balance([int(held[i]) for i in batch], ranks)
            busiest += max(float(sum(trained[batch[i]] for i in share)) for share in shares)
        return busiest

    def _tokens(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each group, prompts included: of all its rollouts, and of those that are trained on."""
        lengths = {source: self._lengths(step, source) + self._constants.prompt_tokens for source in SOURCES}
        kept = self._kept(step)
        held = sum(tokens.sum(axis=1) for tokens in lengths.values())
        return held, sum((lengths[source] * kept[source]).sum(axis=1) for source in SOURCES)

    def _kept(self, step: int) -> dict[Source, np.ndarray]:
        """Which rollouts are trained on: 1.0 or 0.0, [prompts, rollouts] per source."""
        counts = {source: self._count(step, source) for source in SOURCES}
        objective, solved = self._config.objective, self._constants.solved
        over_the_batch = objective.over_batch  # no advantage is 0 then
        if solved is None or over_the_batch or (objective.kl > 0 and objective.kl_in == "loss"):
            return {source: np.ones((self._work.prompts, count)) for source, count in counts.items()}
        rng = generator(self._config.seed, step, len(SOURCES))
        right = solved.draw(rng, self._work.prompts, counts)
        solutions = sum(found.sum(axis=1) for found in right.values())
        varied = ((solutions > 0) & (solutions < sum(counts.values())))[:, None]
        kept = {source: np.broadcast_to(varied, found.shape).astype(float) for source, found in right.items()}
        if objective.explorer_negatives == 0 and not objective.recentre:
            kept["explorer"] = kept["explorer"] * right["explorer"]
        return kept
