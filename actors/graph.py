"""The actor graph of a run: actors on the slots of a plan, changed with its phases and stopped on every exit."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import ray

from actors.batch import StepBatch
from actors.blueprint import Blueprint, RunNeeds
from actors.calls import fetch, watch
from actors.launcher import ActorLauncher, PlacedEngine
from actors.node_files import check_node_files
from actors.scheduler_settings import SchedulerSettings
from actors.trainer import TrainerGroup
from actors.weight_sync import WeightSyncReport
from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.errors import S2LError
from s2l_ray.generation.sleeping import Call, fall_asleep, weight_sync_and_wake
from s2l_ray.kinds import Source
from s2l_ray.placement.plan import EngineSlot, Layout
from s2l_ray.placement.ray_binding import reserve
from s2l_ray.rollouts.records import RolloutSummary
from s2l_ray.timing import Span

T = TypeVar("T")
Key = tuple[Source, int]
"""Role and index of an engine."""
ANSWER_S = 60.0
"""Seconds for an answer that was given already to arrive here."""


class ActorGraph:
    """Explorer engines, learner engines, verifier pool, scheduler and trainer ranks, exchanging object refs.

    `start` it once, and `close` it also where that failed. Between the two it can serve several runs, one after the
    other: `rest` after one, and `reconfigure` for the next if nothing keeps it from that (`differences`).

    Args:
        needs: of the run.
    """

    def __init__(self, needs: RunNeeds) -> None:
        self._engines: dict[Key, PlacedEngine] = {}
        self._arriving: dict[Key, PlacedEngine] = {}
        self._lost: set[Key] = set()
        self._bank: Any = None
        self._contents: dict[str, str] = {}
        self._started = ExitStack()
        self._serve(needs)

    def _serve(self, needs: RunNeeds) -> None:
        self._needs = needs
        self._config, self._layout, self._reporter = needs.config, needs.layout, needs.reporter
        self._contents |= Blueprint.of(needs, []).contents
        self._collecting: dict[int, ray.ObjectRef] = {}
        self.version = -1
        """Weight version that the learner engines hold; -1: none yet."""

    def start(self, first_step: int) -> None:
        """Reserve resources and start every actor.

        Args:
            first_step: the step that the run begins or continues with (1-based).

        Raises:
            PlacementError: the cluster cannot hold the layout, or an actor does not start in time.
        """
        config, phase = self._config, self._reporter.phase
        phase("reserving resources")
        may_grow = config.placement.inventory is not None
        self._reservation = reserve(self._layout.bundles, config.cluster.start_timeout_s, phase, may_grow)
        self._launcher = launcher = ActorLauncher(config, self._layout, self._reservation, self._needs.prompts)
        self._started.callback(launcher.close)
        check_node_files(config, self._layout, self._reservation, config.run_path)
        phase("starting engines, verifiers and trainer")
        slots = self._layout.phase_at(first_step)
        ranks = [launcher.launch_rank(slot, len(slots.trainers)) for slot in slots.trainers]
        self._engines = {(slot.role, slot.index): launcher.launch_engine(slot) for slot in slots.engines}
        self._verifiers = launcher.launch_verifiers()
        self._bank = launcher.launch_bank(self._needs.bank) if self._needs.bank else None
        self.trainer = TrainerGroup(ranks, config.cluster.step_timeout_s, config.cluster.weight_sync_timeout_s)
        self.trainer.begin_build(config)
        launcher.wait_ready(list(self._engines.values()), self._verifiers, self._bank, self._reporter.progress)
        self.trainer.finish_build()
        phase("connecting trainer and learner engines")
        self._connect()
        self._scheduler = launcher.launch_scheduler(self._scheduling())

    def _scheduling(self) -> SchedulerSettings:
        ranks = len(self.trainer.ranks)
        return self._launcher.scheduler_settings(
            self._needs, list(self._engines.values()), self._verifiers, ranks, self._bank
        )

    # ---- from one run to the next -----------------------------------------------------------------------------------

    def rest(self) -> None:
        """A run is over: cancel its requests. The actors stay, with nothing to do.

        Raises:
            ActorLostError: the scheduler is gone.
        """
        self._collecting.clear()
        self._call(self._scheduler.rest.remote(), "cancelling requests")

    def differences(self, needs: RunNeeds, first_step: int) -> list[str]:
        """What keeps the actors that are there from serving another run, from `first_step` on; empty: nothing.

        Engines that only one of the runs has at this step are none: `reconfigure` stops and starts them.
        """
        slots = _by_key(needs.layout, first_step)
        stay = {key: engine for key, engine in self._engines.items() if key in slots}
        engines = {engine.slot: engine.settings for engine in stay.values()}
        there = replace(Blueprint.of(self._needs, []), engines=engines, contents=self._contents)
        return there.differences(Blueprint.of(needs, [slots[key] for key in stay]))

    def reconfigure(self, needs: RunNeeds, first_step: int) -> None:
        """Serve another run, to which there are no `differences`, after `rest`, as actors that have just started do.

        The learner's engines hold no weights until a weight sync.

        Raises:
            ConfigError: the trainer cannot compute what the run asks for.
            PlacementError: a node does not see the run directory, or an engine does not start in time.
            ActorLostError: an actor is gone.
        """
        self._serve(needs)
        config, launcher = self._config, self._launcher
        self._reporter.phase("reconfiguring engines, verifiers and trainer")
        launcher.serve(config, self._layout)
        check_node_files(config, self._layout, self._reservation, config.run_path)
        slots, before = _by_key(self._layout, first_step), set(self._engines)
        for engine in [self._engines.pop(key) for key in before - slots.keys()] + list(self._arriving.values()):
            launcher.stop(engine.actor)
        self._arriving.clear()
        self._lost.clear()
        fall_asleep(*self._sleepers())
        self.trainer.begin_rebuild(config)
        stay = [engine.actor for engine in self._engines.values()] + self._verifiers
        renewing = [actor.renew.remote() for actor in stay] + self._reopen_bank(needs.bank)
        self._engines |= {key: launcher.launch_engine(slot) for key, slot in slots.items() if key not in self._engines}
        launcher.wait_ready(list(self._engines.values()), self._verifiers, self._bank, self._reporter.progress)
        renewing.append(self._scheduler.begin.remote(self._scheduling()))
        self._call(renewing, "renewing engines, verifiers and scheduler")
        self.trainer.finish_rebuild()
        if any(role == "learner" for role, _ in before ^ slots.keys()):
            self._connect()

    def _reopen_bank(self, settings: BankSettings | None) -> list[ray.ObjectRef]:
        """Have the bank's actor of another run, if it has one. Returns what has to be waited for."""
        if self._bank is not None and settings is not None:
            return [self._bank.reopen.remote(settings)]
        if self._bank is not None:
            self._launcher.stop(self._bank)
        self._bank = self._launcher.launch_bank(settings) if settings else None
        return []

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
        wanted = _by_key(self._layout, step).keys() - self._lost
        return bool(self._arriving) or wanted != self._engines.keys()

    def apply_phase(self, step: int) -> None:
        """Stop engines that the phase of `step` does not have, start those it adds, and admit engines that are ready.

        Called between two steps. A learner engine that joins receives the current weights by broadcast, never from
        disk. An engine that does not start is given up with a note, and the run continues without it.
        """
        wanted = _by_key(self._layout, step)
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
        self._launcher.stop((engine or self._arriving.pop(key)).actor)

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
        self._launcher.stop(engine.actor)

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Weight syncs go to every present learner engine from here on."""
        self.trainer.connect([engine.member for engine in self._of("learner")])

    def _sleepers(self) -> tuple[Call, Call]:
        """Calls to the explorer and to the learner engines that share the trainer's devices, all at the same time."""

        def of(source: Source) -> Call:
            def call(method: str, *args: Any) -> None:
                # Looked up at every call: the weight sync may have lost one.
                engines = [engine for engine in self._of(source) if engine.settings.sleep]
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


def _by_key(layout: Layout, step: int) -> dict[Key, EngineSlot]:
    """The slots of the engines that a step has."""
    return {(slot.role, slot.index): slot for slot in layout.phase_at(step).engines}
