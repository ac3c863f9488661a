"""The actor graph of a run: actors on the slots of a plan, changed with its phases and stopped on every exit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import ray

from actors.batch import StepBatch
from actors.blueprint import Blueprint, RunNeeds
from actors.calls import POLL_S, RolloutsGoneError, fetch, outcomes
from actors.launcher import ActorLauncher
from actors.node_files import check_node_files
from actors.scheduler_client import SchedulerClient
from actors.scheduler_settings import SchedulerProgress, SchedulerSettings
from actors.supervision import Supervision
from actors.trainer_group import TrainerGroup
from actors.trainer_recovery import RecoveringTrainer
from actors.weight_sync import NoMemberLeftError, WeightSyncReport
from actors.workers import BANK, Key, Workers, name_of
from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.generation.sleeping import Call, fall_asleep, weight_sync_and_wake
from s2l_ray.kinds import Source
from s2l_ray.placement.plan import EngineSlot, Layout
from s2l_ray.placement.ray_binding import reserve
from s2l_ray.placement.recomputation import as_planned
from s2l_ray.rollouts.records import RolloutSummary
from s2l_ray.timing import Span

T = TypeVar("T")


class ActorGraph:
    """Explorer engines, learner engines, verifier pool, scheduler and trainer ranks, exchanging object refs.

    `start` it once, and `close` it also where that failed. Between the two it can serve several runs, one after the
    other: `rest` after one, and `reconfigure` for the next if nothing keeps it from that (`differences`).

    Any of its actors may die or hang at any time: it is started again, and what it was doing is done again, within the
    failure budget of the configuration's section `recovery`. That happens while the driver waits for something.

    Args:
        needs: of the run.
    """

    trainer: RecoveringTrainer
    _supervision: Supervision
    _workers: Workers
    _scheduler: SchedulerClient

    def __init__(self, needs: RunNeeds) -> None:
        self._contents: dict[str, str] = {}
        self._awake: Literal["all", "weights", "nothing"] = "all"
        """What engines that share devices with the trainer hold of it; `weights`: the learners' alone."""
        self._started = ExitStack()
        self._serve(needs)

    def _serve(self, needs: RunNeeds) -> None:
        self._needs = needs
        self._config, self._layout, self._reporter = needs.config, needs.layout, needs.reporter
        self._contents |= Blueprint.of(needs, []).contents
        self._observed: dict[int, tuple[int, int]] = {}
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
        self._supervision = care = Supervision(launcher, config, self._note, self._give_weights)
        self._workers = care.workers
        self.trainer = care.trainer = RecoveringTrainer(
            lambda named: self._start_ranks(first_step, named),
            launcher.bury,
            care.watch,
            care.budget,
            self._note,
            self._room,
        )
        self._workers.launch_engines(_by_key(self._layout, first_step))
        self._workers.launch_verifiers(config.verifier.workers)
        self._workers.launch_bank(self._needs.bank)
        self._workers.wait_ready(self._reporter.progress)
        self.trainer.finish_build()
        self._choose_base()
        phase("connecting trainer and learner engines")
        self._connect()
        self._scheduler = care.scheduler = SchedulerClient(
            self._launch_scheduler, care.replace_scheduler, care.watch, care.look, self._bound
        )
        care.serving = True

    def _start_ranks(self, step: int, groups_named: int) -> TrainerGroup:
        cluster, slots = self._config.cluster, self._layout.phase_at(step).trainers
        ranks = [self._launcher.launch_rank(slot, len(slots)) for slot in slots]
        group = TrainerGroup(
            ranks,
            cluster.step_timeout_s,
            cluster.weight_sync_timeout_s,
            self._supervision.tend_busy,
            groups_named,
            self._launcher.start_bound,
            self._needs.prompts,
        )
        try:
            group.begin_build(as_planned(self._config, self._layout))
        except Exception:  # nobody has them yet, and the next ones need their devices
            for rank in ranks:
                self._launcher.bury(rank)
            raise
        return group

    def _choose_base(self) -> None:
        """Decide by recovery.snapshots what a trainer that loses a rank goes on from."""
        wish = self._config.recovery.snapshots
        if wish == "memory" or (wish == "auto" and _fits(self.trainer.group.snapshot_bytes())):
            self.trainer.keep_snapshots()

    def _launch_scheduler(self) -> Any:
        return self._launcher.launch_scheduler(self._scheduling())

    def _scheduling(self) -> SchedulerSettings:
        workers, ranks = self._workers, len(self.trainer.ranks)
        return self._launcher.scheduler_settings(
            self._needs, workers.all_engines, workers.verifiers, ranks, workers.bank, self.version, self._observed
        )

    # ---- from one run to the next -----------------------------------------------------------------------------------

    def rest(self) -> None:
        """A run is over: cancel its requests. The actors stay, with nothing to do.

        Raises:
            ActorLostError: the scheduler is gone.
        """
        self._scheduler.forget()
        self._scheduler.tell("rest", what="cancelling requests")

    def differences(self, needs: RunNeeds, first_step: int) -> list[str]:
        """What keeps the actors that are there from serving another run, from `first_step` on; empty: nothing.

        Engines that only one of the runs has at this step are none: `reconfigure` stops and starts them.
        """
        slots = _by_key(needs.layout, first_step)
        if away := self._workers.away:
            return [f"{name_of(key)} has no node" for key in away]
        stay = [engine for engine in self._workers.all_engines if _key(engine.slot) in slots]
        engines = {engine.slot: engine.settings for engine in stay}
        there = replace(Blueprint.of(self._needs, []), engines=engines, contents=self._contents)
        return there.differences(Blueprint.of(needs, [slots[_key(engine.slot)] for engine in stay]))

    def reconfigure(self, needs: RunNeeds, first_step: int) -> None:
        """Serve another run, to which there are no `differences`, after `rest`, as actors that have just started do.

        The learner's engines hold no weights until a weight sync.

        Raises:
            ConfigError: the trainer cannot compute what the run asks for.
            PlacementError: a node does not see the run directory, or an engine does not start in time.
            ActorLostError: an actor is gone.
        """
        self._serve(needs)
        self._supervision.serving = False
        config, launcher, workers = self._config, self._launcher, self._workers
        self._reporter.phase("reconfiguring engines, verifiers and trainer")
        launcher.serve(config, self._layout)
        check_node_files(config, self._layout, self._reservation, config.run_path)
        slots, before = _by_key(self._layout, first_step), {_key(engine.slot) for engine in workers.all_engines}
        for key in workers.engine_keys - (slots.keys() & before):
            workers.stop(key)
        self._fall_asleep()
        self.trainer.rebuild(lambda group: group.begin_rebuild(as_planned(config, self._layout)))
        stay = [engine.actor for engine in workers.all_engines] + list(workers.verifiers.values())
        renewing = [actor.renew.remote() for actor in stay] + self._reopen_bank(needs.bank)
        workers.launch_engines({key: slot for key, slot in slots.items() if key not in before})
        workers.wait_ready(self._reporter.progress)
        fetch(renewing, self._bound, "renewing engines, verifiers and bank")
        self._scheduler.tell("begin", self._scheduling(), what="renewing the scheduler")
        self.trainer.group.finish_rebuild()
        if any(role == "learner" for role, _ in before ^ slots.keys()):
            self._connect()
        self._supervision.serving = True

    def _reopen_bank(self, settings: BankSettings | None) -> list[ray.ObjectRef]:
        """Have the bank's actor of another run, if it has one. Returns what has to be waited for."""
        workers = self._workers
        if workers.bank is not None and settings is not None:
            workers.reopened_bank(settings)
            return [workers.bank.reopen.remote(settings)]
        workers.stop(BANK)
        workers.launch_bank(settings)
        return []

    # ---- what the algorithm asks for --------------------------------------------------------------------------------

    @property
    def engines(self) -> dict[Source, int]:
        """How many engines sample for each source.

        One that was lost and is being started again counts, unless it has no node.
        """
        return {source: self._workers.count(source) for source in ("explorer", "learner")}

    @property
    def explores(self) -> bool:
        """Whether the run has explorer engines now."""
        return self._workers.has("explorer")

    def take_restarts(self) -> int:
        """How many actors were started again since the last call; the trainer's ranks count as one."""
        return self._supervision.take_restarts()

    def restore_schedule(self, observed: dict[int, tuple[int, int]]) -> None:
        """Continue after the given steps: cancel requests under way and give an adaptive schedule its measurements.

        Args:
            observed: `StepRecord.explorer_only` by step.
        """
        self._observed = dict(observed)
        self._scheduler.forget()
        self._scheduler.tell("restore_schedule", observed, what="restoring the schedule")

    def begin_collect(self, step: int) -> None:
        """Ask for a step's groups now, to `collect` them later."""
        self._scheduler.begin_collect(step)

    def collect(self, step: int) -> StepBatch:
        """The step's whole, verified groups, by reference."""
        self._supervision.tend(devices_free=True)  # the wait may be too short for a look
        batch: StepBatch = self._scheduler.collect(step, self._tend)
        self._observed[step] = batch.explorer_only
        return batch

    def update(self, batch: StepBatch) -> tuple[StepBatch, dict[str, float], list[Span]]:
        """One update of the learner; engines on the trainer's devices sleep meanwhile. See `TrainerGroup.update`.

        Returns:
            The batch that was trained on, the metrics and the spans. It is another batch than the argument where its
            rollouts were lost with the scheduler and sampled again.
        """
        self._free_devices()
        try:
            return batch, *self.trainer.update(batch)
        except RolloutsGoneError as error:
            step = batch.split.step
            self._note(f"{error}, and are sampled again")
            # What was sampled ahead may be gone with the same node.
            self.restore_schedule({before: seen for before, seen in self._observed.items() if before < step})
            if self._workers.share_devices:  # whose engines sleep, and have nothing to sample with
                self.weight_sync(self.version)
            return self.update(self.collect(step))

    def load(self, directory: str) -> None:
        """Let the trainer go on from a checkpoint; engines on its devices sleep from here to the next weight sync."""
        self._free_devices()
        self.trainer.load(directory)

    def weight_sync(self, version: int) -> WeightSyncReport:
        """Hand the trainer's weights to the learner engines as `version`."""
        return self.weight_sync_during(version, lambda: None)[0]

    def weight_sync_during(self, version: int, work: Callable[[], T]) -> tuple[WeightSyncReport, T]:
        """Hand the trainer's weights to the learner engines as `version` while the driver does some work.

        Sleeping engines wake for it in the order that never holds old weights, new weights and KV cache at once.
        """
        self.version = -1
        self._hold()
        results: list[T] = []

        def deliver() -> WeightSyncReport:
            self.trainer.group.begin_weight_sync(version)
            if not results:
                results.append(work())
            return self.trainer.group.finish_weight_sync()

        report = weight_sync_and_wake(*self._sleepers(), lambda: self._deliver(version, deliver))
        self._awake, self.version = "all", version
        self._scheduler.tell("release", version, what="sending requests again")
        self.trainer.begin_snapshot()
        return report, results[0]

    def _deliver(self, version: int, deliver: Callable[[], WeightSyncReport]) -> WeightSyncReport:
        """Deliver a version of the weights, to other learner engines if those that were there are lost."""
        self._awake = "weights"
        while True:
            try:
                report = self.trainer.surviving(deliver)
            except NoMemberLeftError as error:
                self._supervision.lose_members(error.lost, version)
                self._supervision.await_learner()
                self._connect()
            else:
                self._supervision.lose_members(report.lost, version)
                return report

    def _give_weights(self) -> None:
        """Give the learner engines that are there now the present weights; they get the first ones with the others."""
        self._connect()
        if self.version >= 0:
            self.weight_sync(self.version)

    def evaluate(self, prompt_ids: list[str], sources: list[Source]) -> list[list[RolloutSummary]]:
        """The evaluation rollouts' numbers, per source; the sources' engines work at the same time."""
        samples = self._config.evaluation.samples

        def ask() -> list[ray.ObjectRef]:
            return [self._scheduler.actor.evaluate.remote(prompt_ids, source, samples) for source in sources]

        return self._scheduler.wait(ask, "evaluation", self._tend)

    def score(self, token_ids: np.ndarray) -> list[np.ndarray]:
        """Log-probs of one text under every learner engine's weights, float32 [tokens - 1] each."""
        calls = [engine.actor.score.remote(token_ids) for engine in self._workers.engines("learner")]
        scores: list[np.ndarray] = fetch(calls, self._bound, "scoring")
        return scores

    def close(self) -> None:
        """Stop every actor and give the resources back. Safe to call twice, and after a failure."""
        if ray.is_initialized():
            self._started.close()

    # ---- engines that come and go -----------------------------------------------------------------------------------

    def phase_changes_before(self, step: int) -> bool:
        """Whether `apply_phase` has something to do before `step`."""
        return _by_key(self._layout, step).keys() != self._workers.engine_keys

    def apply_phase(self, step: int) -> None:
        """Stop engines that the phase of `step` does not have, start those it adds, and admit engines that are ready.

        Called between two steps. A learner engine that joins receives the current weights by broadcast, never from
        disk. What is not ready within placement.hand_over_wait_s joins when it is.
        """
        wanted, workers = _by_key(self._layout, step), self._workers
        for key in workers.engine_keys - wanted.keys():
            self._retire(key)
        workers.launch_engines({key: slot for key, slot in wanted.items() if key not in workers.engine_keys})
        # With no explorer engine at all (the run went back to an earlier step) the wait is as long as at the start.
        needed = not workers.engines("explorer") and workers.expects("explorer")
        wait_s = self._launcher.start_bound.seconds if needed else self._config.placement.hand_over_wait_s
        deadline = time.monotonic() + wait_s
        self._supervision.tend(devices_free=True)
        while any(map(workers.expects, ("explorer", "learner"))) and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL_S / 4, left))
            self._supervision.tend(devices_free=True)

    def _retire(self, key: Key) -> None:
        """Let an engine finish its requests, then stop it."""
        self._workers.withdraw(key)
        self._scheduler.tell("retire", *key, what=f"retiring {key[0]} engine {key[1]}")
        self._workers.stop(key)

    def _free_devices(self) -> None:
        """Have the engines on the trainer's devices sleep, those that are starting there too."""
        self._supervision.await_sleepers()
        self._fall_asleep()

    def _fall_asleep(self) -> None:
        fall_asleep(*self._sleepers())
        self._awake = "nothing"

    def _hold(self) -> None:
        """Engines that sleep get no requests until all are awake; nor do the learner's, which get new weights."""
        asleep = {engine.slot.role for engine in self._workers.all_engines if engine.settings.sleep}
        self._scheduler.tell("hold", sorted({"learner", *asleep}), what="holding requests")

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Have engines sleep while lost ranks are brought back: updates that are done again need as much memory."""
        awake, version = self._awake, self.version
        if awake == "nothing" or not self._workers.share_devices:
            yield
            return
        if awake == "all" and version >= 0:
            self._hold()
        self._fall_asleep()
        yield
        if awake == "weights":
            self._sleepers()[1]("wake", "weights")
            self._awake = awake
        elif version >= 0:
            self.weight_sync(version)

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _tend(self, progress: SchedulerProgress) -> None:
        """What is done every second while the scheduler works and the trainer does not."""
        self._reporter.progress(progress.answered, progress.requests)
        self._supervision.tend_after(progress)

    def _note(self, text: str) -> None:
        self._reporter.note(text)

    def _connect(self) -> None:
        """Weight syncs go to every present learner engine from here on."""
        self.trainer.connect([engine.member for engine in self._workers.engines("learner")])

    def _sleepers(self) -> tuple[Call, Call]:
        """Calls to the explorer and to the learner engines that share the trainer's devices, all at the same time."""

        def of(source: Source) -> Call:
            def call(method: str, *args: Any) -> None:
                # Looked up at every call: the weight sync may have lost one.
                engines = [engine for engine in self._workers.engines(source) if engine.settings.sleep]
                calls = {engine.slot.index: getattr(engine.actor, method).remote(*args) for engine in engines}
                _, failed = outcomes(calls, self._bound, tend=self._supervision.look)
                for number, error in failed.items():
                    self._workers.lose_present((source, number), f"{method} {' '.join(args)} failed: {error}")

            return call

        return of("explorer"), of("learner")

    @property
    def _bound(self) -> float:
        # The scheduler bounds its own waits; the margin lets its message arrive before ours.
        return 2 * self._config.cluster.step_timeout_s + 30


def _key(slot: EngineSlot) -> Key:
    return slot.role, slot.index


def _by_key(layout: Layout, step: int) -> dict[Key, EngineSlot]:
    """The slots of the engines that a step has."""
    return {_key(slot): slot for slot in layout.phase_at(step).engines}


def _fits(snapshots: dict[str, int]) -> bool:
    """Whether two snapshots of the trainer take at most half of the object store of every node of a rank.

    Args:
        snapshots: bytes of one, by node.
    """
    stores = {node["NodeID"]: node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]}
    return all(2 * size <= stores.get(node, 0) / 2 for node, size in snapshots.items())
