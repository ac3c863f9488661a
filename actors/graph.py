"""The actor graph of a run: actors on the slots of a plan, changed with its phases and stopped on every exit."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np
import ray

from actors.batch import StepBatch
from actors.calls import fetch, watch
from actors.launcher import ActorLauncher, PlacedEngine
from actors.node_files import check_node_files
from actors.trainer import TrainerGroup
from actors.weight_sync import WeightSyncReport
from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.config import Config
from s2l_ray.errors import S2LError
from s2l_ray.generation.sleeping import Call, fall_asleep, weight_sync_and_wake
from s2l_ray.kinds import Source
from s2l_ray.placement.plan import Layout
from s2l_ray.placement.ray_binding import reserve
from s2l_ray.reporter import Reporter
from s2l_ray.rollouts.records import Prompt, RolloutSummary
from s2l_ray.timing import Span

T = TypeVar("T")
Key = tuple[Source, int]
"""Role and index of an engine."""
ANSWER_S = 60.0
"""Seconds for an answer that was given already to arrive here."""


class ActorGraph:
    """Explorer engines, learner engines, verifier pool, scheduler and trainer ranks, exchanging object refs.

    `start` it once, and `close` it also where that failed.

    Args:
        config: of the run.
        layout: the actors' slots in every phase.
        train, held_out: rendered prompts, by id, distinct between the two.
        reporter: receives what is being started, the progress of long waits, and engines that were lost.
        stragglers: prompts that steps leave out, as far as they are known beforehand, by step.
        bank: the recording of explorer rollouts, or None.
    """

    def __init__(
        self,
        config: Config,
        layout: Layout,
        train: list[Prompt],
        held_out: list[Prompt],
        reporter: Reporter,
        stragglers: dict[int, list[str]],
        bank: BankSettings | None,
    ) -> None:
        self._config = config
        self._stragglers = stragglers
        self._bank = bank
        self._collecting: dict[int, ray.ObjectRef] = {}
        self._layout = layout
        self._reporter = reporter
        self._engines: dict[Key, PlacedEngine] = {}
        self._arriving: dict[Key, PlacedEngine] = {}
        self._lost: set[Key] = set()
        self.version = -1
        """Weight version that the learner engines hold; -1: none yet."""
        self._train = [prompt.id for prompt in train]
        self._prompts = {prompt.id: prompt for prompt in [*train, *held_out]}
        self._started = ExitStack()

    def start(self, first_step: int) -> None:
        """Reserve resources and start every actor.

        Args:
            first_step: the step that the run begins or continues with (1-based).

        Raises:
            PlacementError: the cluster cannot hold the layout, or an actor does not start in time.
        """
        cluster, phase = self._config.cluster, self._reporter.phase
        phase("reserving resources")
        may_grow = self._config.placement.inventory is not None
        reservation = reserve(self._layout.bundles, cluster.start_timeout_s, phase, may_grow)
        self._launcher = launcher = ActorLauncher(self._config, self._layout, reservation, self._prompts)
        self._started.callback(launcher.close)
        check_node_files(self._config, self._layout, reservation, self._config.run_path)
        phase("starting engines, verifiers and trainer")
        slots = self._layout.phase_at(first_step)
        ranks = [launcher.launch_rank(slot, len(slots.trainers)) for slot in slots.trainers]
        self._engines = {(slot.role, slot.index): launcher.launch_engine(slot) for slot in slots.engines}
        verifiers = launcher.launch_verifiers()
        bank = launcher.launch_bank(self._bank) if self._bank else None
        self.trainer = TrainerGroup(ranks, cluster.step_timeout_s, cluster.weight_sync_timeout_s)
        self.trainer.begin_build()
        engines = list(self._engines.values())
        launcher.wait_ready(engines, verifiers, bank, self._reporter.progress)
        self.trainer.finish_build()
        phase("connecting trainer and learner engines")
        self._connect()
        self._scheduler = launcher.launch_scheduler(self._train, engines, verifiers, len(ranks), self._stragglers, bank)

    # ---- what the algorithm asks for --------------------------------------------------------------------------------

    @property
    def engines(self) -> dict[Source, int]:
        """How many engines sample for each source."""
        return {source: len(self._of(source)) for source in ("explorer", "learner")}

    @property
    def explores(self) -> bool:
        """Whether there are explorer engines."""
        return self.engines["explorer"] > 0

    def restore_schedule(self, observed: dict[int, tuple[int, int]]) -> None:
        """Continue after the given steps: cancel requests under way and give an adaptive schedule its measurements.

        Args:
            observed: `StepRecord.explorer_only` by step.
        """
        self._collecting.clear()
        self._call(self._scheduler.restore_schedule.remote(observed), "restoring the schedule")

    def begin_collect(self, step: int) -> None:
        """Ask for a step's groups now, to `collect` them later."""
        if step not in self._collecting:
            self._collecting[step] = self._scheduler.collect.remote(step)

    def collect(self, step: int) -> StepBatch:
        """The step's whole, verified groups, by reference."""
        self.begin_collect(step)
        batches: list[StepBatch] = self._watched([self._collecting[step]], f"collecting step {step}")
        del self._collecting[step]
        return batches[0]

    def update(self, batch: StepBatch) -> tuple[dict[str, float], list[Span]]:
        """One update of the learner; engines on the trainer's devices sleep meanwhile. See `TrainerGroup.update`."""
        fall_asleep(*self._sleepers())
        return self.trainer.update(batch)

    def load(self, directory: str) -> None:
        """Let the trainer go on from a checkpoint; engines on its devices sleep from here to the next weight sync."""
        fall_asleep(*self._sleepers())
        self.trainer.load(directory)

    def weight_sync(self, version: int) -> WeightSyncReport:
        """Hand the trainer's weights to the learner engines as `version`."""
        return self.weight_sync_during(version, lambda: None)[0]

    def weight_sync_during(self, version: int, work: Callable[[], T]) -> tuple[WeightSyncReport, T]:
        """Hand the trainer's weights to the learner engines as `version` while the driver does some work.

        Sleeping engines wake for it in the order that never holds old weights, new weights and KV cache at once.
        """
        self.version = -1
        self._call(self._scheduler.hold.remote(), "holding the learner's requests")

        def deliver() -> tuple[WeightSyncReport, T]:
            self.trainer.begin_weight_sync(version)
            result = work()
            report = self.trainer.finish_weight_sync()
            for member in report.lost:
                self._lose(("learner", member.number), f"it did not take part in the weight sync of version {version}")
            return report, result

        delivered = weight_sync_and_wake(*self._sleepers(), deliver)
        self.version = version
        self._call(self._scheduler.release.remote(version), "sending the learner's requests")
        return delivered

    def evaluate(self, prompt_ids: list[str], sources: list[Source]) -> list[list[RolloutSummary]]:
        """The evaluation rollouts' numbers, per source; the sources' engines work at the same time."""
        samples = self._config.evaluation.samples
        calls = [self._scheduler.evaluate.remote(prompt_ids, source, samples) for source in sources]
        return self._watched(calls, "evaluation")

    def score(self, token_ids: np.ndarray) -> list[np.ndarray]:
        """Log-probs of one text under every learner engine's weights, float32 [tokens - 1] each."""
        calls = [engine.actor.score.remote(token_ids) for engine in self._of("learner")]
        scores: list[np.ndarray] = self._call(calls, "scoring")
        return scores

    def close(self) -> None:
        """Stop every actor and give the resources back. Safe to call twice, and after a failure."""
        if ray.is_initialized():
            self._started.close()

    # ---- engines that come and go -----------------------------------------------------------------------------------

    def phase_changes_before(self, step: int) -> bool:
        """Whether `apply_phase` has something to do before `step`."""
        wanted = {(slot.role, slot.index) for slot in self._layout.phase_at(step).engines} - self._lost
        return bool(self._arriving) or wanted != self._engines.keys()

    def apply_phase(self, step: int) -> None:
        """Stop engines that the phase of `step` does not have, start those it adds, and admit engines that are ready.

        Called between two steps. A learner engine that joins receives the current weights by broadcast, never from
        disk. An engine that does not start is given up with a note, and the run continues without it.
        """
        wanted = {(slot.role, slot.index): slot for slot in self._layout.phase_at(step).engines}
        for key in [key for key in (*self._engines, *self._arriving) if key not in wanted]:
            self._stop(key)
        for key, slot in wanted.items():
            if key not in (self._engines.keys() | self._arriving.keys() | self._lost):
                self._arriving[key] = self._launcher.launch_engine(slot)
        if self._arriving:
            self._admit(self._wait_for_arrivals())

    def _stop(self, key: Key) -> None:
        """Let an engine finish its requests, then stop it."""
        engine = self._engines.pop(key, None)
        if engine is not None:
            self._call(self._scheduler.retire.remote(*key), f"retiring {engine.name}")
        self._launcher.stop(engine or self._arriving.pop(key))

    def _wait_for_arrivals(self) -> list[Key]:
        """The starting engines that are ready, after the wait that placement.hand_over_wait_s allows."""
        # With no explorer engine at all (the run went back to an earlier step) the wait is as long as at the start.
        needed = not self.explores and any(role == "explorer" for role, _ in self._arriving)
        wait = self._config.cluster.start_timeout_s if needed else self._config.placement.hand_over_wait_s
        refs = [engine.ready for engine in self._arriving.values()]
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=wait)
        answered = [key for key, engine in self._arriving.items() if engine.ready in ready]
        started = [key for key in answered if self._has_started(key)]
        for key in [key for key, engine in self._arriving.items() if engine.deadline < time.monotonic()]:
            if key not in started:
                self._lose(key, f"it did not start within {self._config.cluster.start_timeout_s:.0f} s")
        return started

    def _has_started(self, key: Key) -> bool:
        try:
            fetch(self._arriving[key].ready, ANSWER_S, "starting")
        except S2LError as error:
            self._lose(key, str(error))
            return False
        return True

    def _admit(self, joining: list[Key]) -> None:
        """Give the learner engines among them the current weights, and let all of them sample."""
        for key in joining:
            self._engines[key] = self._arriving.pop(key)
        if any(role == "learner" for role, _ in joining):
            self._connect()
            self.weight_sync(self.version)
        for key in joining:
            if key in self._engines:  # not lost in that weight sync
                self._call(self._scheduler.add.remote(*key, self._engines[key].actor), f"adding {key[0]} engine")

    def _lose(self, key: Key, why: str) -> None:
        """Continue without an engine."""
        engine = self._engines.pop(key, None)
        if engine is not None:
            self._call(self._scheduler.drop.remote(*key), f"dropping {engine.name}")
        engine = engine or self._arriving.pop(key)
        self._lost.add(key)
        self._reporter.note(f"continuing without {engine.name}: {why}")
        self._launcher.stop(engine)

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Weight syncs go to every present learner engine from here on."""
        self.trainer.connect([engine.member for engine in self._of("learner")])

    def _sleepers(self) -> tuple[Call, Call]:
        """Calls to the explorer and to the learner engines that share the trainer's devices, all at the same time."""

        def of(source: Source) -> Call:
            def call(method: str, *args: Any) -> None:
                # Looked up at every call: the weight sync may have lost one.
                engines = [engine for engine in self._of(source) if self._launcher.sleeps(engine.slot)]
                calls = [getattr(engine.actor, method).remote(*args) for engine in engines]
                self._call(calls, f"{source} engines: {method} {' '.join(args)}".rstrip())

            return call

        return of("explorer"), of("learner")

    def _of(self, source: Source) -> list[PlacedEngine]:
        return [engine for (role, _), engine in sorted(self._engines.items()) if role == source]

    def _watched(self, refs: list[ray.ObjectRef], what: str) -> list[Any]:
        """Results of long calls to the scheduler; meanwhile the reporter receives its progress."""

        def tell(_: list[ray.ObjectRef]) -> None:
            self._reporter.progress(*self._call(self._scheduler.progress.remote(), what))

        watch(refs, self._bound, tell)
        results: list[Any] = self._call(refs, what)
        return results

    def _call(self, refs: Any, what: str) -> Any:
        return fetch(refs, self._bound, what)

    @property
    def _bound(self) -> float:
        # The scheduler bounds its own waits; the margin lets its message arrive before ours.
        return 2 * self._config.cluster.step_timeout_s + 30
