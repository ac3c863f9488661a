"""Launching actors on the slots of a plan, and stopping them: one by one, or all on every exit."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.bank import Bank, bank_options
from actors.blueprint import RankProcess, RunNeeds, engine_settings
from actors.calls import TOKENS_ASIDE, fetch, watch
from actors.explorer import Explorer
from actors.learner import Learner
from actors.private_ray import while_it_lives
from actors.scheduler import Scheduler
from actors.scheduler_settings import PipelineLimits, SchedulerSettings
from actors.trainer import TrainerRank
from actors.verifier import Verifier
from actors.weight_sync import LearnerMember
from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.config import Config
from s2l_ray.errors import NodeLostError, PlacementError
from s2l_ray.generation.engine import EngineSettings
from s2l_ray.kinds import Source
from s2l_ray.machine.processes import kill_with_environment
from s2l_ray.placement.plan import EngineSlot, Layout, TrainerSlot
from s2l_ray.placement.ray_binding import Reservation, nodes_alive
from s2l_ray.placement.start_bound import start_bound
from s2l_ray.rollouts.records import Prompt, without_columns
from s2l_ray.rollouts.step_planner import step_planner
from s2l_ray.vllm_bridge.environment import engine_environment, nccl_environment

BYTES_PER_TOKEN = 16
"""Upper bound in the object store: 4 for a token's id, 4 for its log-prob and up to 8 for its text."""

CLOSE_S = 5.0
"""Seconds for engines, verifiers and the bank. What is still starting is killed: it would not answer."""
RANK_CLOSE_S = 2.0
"""Seconds for trainer ranks, after all others. An idle rank leaves its groups at once; a busy one is killed."""
BURY_S = 60.0
"""Seconds for killing what is left of an actor on another node."""
AGAIN = "The same command resumes from the last checkpoint, on the nodes that there are then."
"""What to do where a run ends for want of a node."""
ACTOR = "S2L_ACTOR"
"""Environment variable that an actor's process and all processes that it starts have, with a value of their own."""


@dataclass(frozen=True)
class PlacedEngine:
    """An engine actor on its slot."""

    slot: EngineSlot
    settings: EngineSettings
    actor: Any
    ready: ray.ObjectRef

    @property
    def name(self) -> str:
        """Such as "learner engine 0", for messages."""
        return f"{self.slot.role} engine {self.slot.index}"

    @property
    def member(self) -> LearnerMember:
        """A learner engine as a member of weight syncs.

        Raises:
            ValueError: it is an explorer engine, whose weights never change.
        """
        if self.slot.transfer is None:
            raise ValueError(f"{self.name} takes no part in weight syncs")
        return LearnerMember(self.slot.index, self.actor, self.slot.tensor_parallel, self.slot.transfer)


class ActorLauncher:
    """Launches every actor of a run, knows those that live, and stops them.

    Args:
        config: of the run.
        layout: of the plan whose slots the actors take.
        reservation: the slots' resources in Ray; `close` gives them back.
        prompts: by id, of training and evaluation.
    """

    def __init__(self, config: Config, layout: Layout, reservation: Reservation, prompts: dict[str, Prompt]) -> None:
        self.serve(config, layout)
        self._reservation = reservation
        self._prompts = ray.put(prompts)
        bare = without_columns(prompts)
        self._for_engines = self._prompts if bare is prompts else ray.put(bare)
        self._actors: list[Any] = []
        self._ready: dict[Any, ray.ObjectRef] = {}
        """Of the actors that hold something to close: done once they do."""
        self._ranks: list[Any] = []
        self._marks: dict[Any, str] = {}
        """Values of the environment variable ACTOR."""
        self._nodes: dict[Any, str] = {}
        """Ids (hex) of the nodes of actors that are on a bundle."""
        self._node = ray.get_runtime_context().get_node_id()
        self._closed = False

    def serve(self, config: Config, layout: Layout) -> None:
        """Launch what another run needs from here on, on the same bundles and with the same prompts."""
        self._config, self._layout = config, layout
        self.start_bound = start_bound(config, layout)

    def launch_rank(self, slot: TrainerSlot, ranks: int) -> Any:
        """Start one of `ranks` trainer ranks.

        Raises:
            NodeLostError: the node of its bundle is gone.
        """
        if self._reservation.places[slot.bundle].node not in nodes_alive():
            raise NodeLostError(f"{self._lost_node(slot)}, and with it trainer rank {slot.index}. {AGAIN}")
        process = RankProcess.of(self._config, slot.index, ranks)
        env = {"OMP_NUM_THREADS": str(process.threads or 1)} | nccl_environment() | _loopback()
        rank = self._spawn(TrainerRank, self._reservation.options(slot, process.cpus, env), process)
        self._nodes[rank] = self._reservation.places[slot.bundle].node
        self._ranks.append(rank)
        return rank

    def launch_engine(self, slot: EngineSlot) -> PlacedEngine:
        """Begin to start an engine; `PlacedEngine.ready` is done once it answers.

        Raises:
            NodeLostError: its bundle has no node.
        """
        if not self.has_node(slot):
            raise NodeLostError(f"{self._lost_node(slot)}, and with it {slot.role} engine {slot.index}. {AGAIN}")
        settings = engine_settings(self._config, self._layout, slot)
        options = self._reservation.options(
            slot, settings.engine.cpus, engine_environment(settings.engine) | _loopback() | TOKENS_ASIDE
        )
        kind = {"explorer": Explorer, "learner": Learner}[slot.role]
        actor = self._spawn_holder(kind, options, settings, self._for_engines)
        self._nodes[actor] = self._reservation.places[slot.bundle].node
        return PlacedEngine(slot, settings, actor, self._ready[actor])

    def has_node(self, slot: EngineSlot) -> bool:
        """Whether the bundle of an engine that is to be started has a node; see `Reservation.find`.

        A bundle with trainer ranks stays where it was: they cannot go on elsewhere.
        """
        if self.sleeps(slot):
            return not self.is_lost(self._reservation.places[slot.bundle].node)
        return self._reservation.find(slot.bundle)

    def node_of(self, actor: Any) -> str | None:
        """Id of the node of an actor that is on a bundle, and was not ended."""
        return self._nodes.get(actor)

    def is_lost(self, node: str | None) -> bool:
        """Whether a node, by its id, is not there any more. None: it is not known, and not taken for lost."""
        return node is not None and node not in nodes_alive()

    def _lost_node(self, slot: EngineSlot | TrainerSlot) -> str:
        """Says that the node which a slot was on is lost."""
        return f"node {self._reservation.places[slot.bundle].node[:8]} is lost"

    def sleeps(self, slot: EngineSlot) -> bool:
        """Whether the engine of a slot shares devices with the trainer, and has to sleep while that is at work."""
        return self._layout.sleeps(slot)

    def launch_verifier(self) -> tuple[Any, ray.ObjectRef]:
        """Begin to start a verifier: its actor, and what is done once it answers."""
        verifier = self._config.verifier
        options = {"runtime_env": {"env_vars": dict(TOKENS_ASIDE)}}
        called = verifier.options, verifier.columns
        actor = self._spawn_holder(Verifier, options, verifier.kind, verifier.timeout_s, self._prompts, *called)
        return actor, self._ready[actor]

    def launch_bank(self, settings: BankSettings) -> tuple[Any, ray.ObjectRef]:
        """Begin to start the bank's actor; and what is done once it answers."""
        options = bank_options(settings) | {"runtime_env": {"env_vars": dict(TOKENS_ASIDE)}}
        actor = self._spawn_holder(Bank, options, settings, self._prompts)
        return actor, self._ready[actor]

    def launch_scheduler(self, settings: SchedulerSettings) -> Any:
        """Start the scheduler over engines, verifiers and bank that are ready.

        It is on the driver's node: whatever else is lost, it is not, and it knows what was sampled.
        """
        here = NodeAffinitySchedulingStrategy(self._node, soft=False)
        return self._spawn(Scheduler, {"scheduling_strategy": here, "runtime_env": {"env_vars": {}}}, settings)

    def scheduler_settings(
        self,
        needs: RunNeeds,
        engines: Sequence[PlacedEngine],
        verifiers: dict[int, Any],
        ranks: int,
        bank: Any | None,
        version: int,
        observed: Mapping[int, tuple[int, int]],
    ) -> SchedulerSettings:
        """What the scheduler is given for a run with these actors. See `SchedulerSettings`."""
        config = self._config
        pools: dict[Source, dict[int, Any]] = {"explorer": {}, "learner": {}}
        for engine in engines:
            pools[engine.slot.role][engine.slot.index] = engine.actor
        return SchedulerSettings(
            step_planner(config, [prompt.id for prompt in needs.train]),
            steps=config.schedule.steps,
            pipeline=self._pipeline(engines, needs.stragglers),
            refill_rounds=config.rollout.refill_rounds,
            ranks=ranks,
            mini_batch_prompts=config.objective.mini_batch_prompts or config.rollout.prompts_per_step,
            timeout_s=config.cluster.step_timeout_s,
            engines=pools,
            verifiers=verifiers,
            bank=bank,
            reads=bank is not None and config.bank.mode in ("read", "readwrite"),
            records=bank is not None and config.bank.mode in ("write", "readwrite"),
            version=version,
            observed=observed,
        )

    def _pipeline(self, engines: Sequence[PlacedEngine], stragglers: dict[int, list[str]]) -> PipelineLimits:
        rollout, samplers = self._config.rollout, self._config.engines
        explorers_sleep = any(engine.settings.sleep for engine in engines if engine.slot.role == "explorer")
        return PipelineLimits(
            prefetch_steps=0 if explorers_sleep else rollout.prefetch_steps,
            prefetch_bytes=int(rollout.prefetch_gb * 2**30),
            bytes_per_rollout=rollout.max_tokens * BYTES_PER_TOKEN,
            max_staleness=rollout.max_staleness,
            # One batch at work and one that waits, so that an engine never has to ask for more.
            capacity={s: 2 * getattr(samplers, s).max_num_seqs for s in ("explorer", "learner")},
            stragglers=stragglers,
        )

    def wait_ready(
        self, starting: Mapping[ray.ObjectRef, str], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Wait until actors that are starting answer.

        Args:
            starting: what is done once an actor answers, and its name.
            progress: called every second with how many answer, and how many there are; at the end with all of them.

        Raises:
            PlacementError: some do not within `start_bound`.
            EngineError: one cannot start.
        """
        timeout = self.start_bound.seconds

        def tell(done: list[ray.ObjectRef]) -> None:
            fetch(done, timeout, "starting")  # raises what an actor raised while it started
            progress(len(done), len(starting))

        watch(list(starting), timeout, tell)
        done, late = ray.wait(list(starting), num_returns=len(starting), timeout=0)
        fetch(done, timeout, "starting")
        if late:
            names = sorted(starting[ref] for ref in late)
            raise PlacementError(f"{names} did not start within {self.start_bound.text}")
        progress(len(starting), len(starting))

    def stop(self, actor: Any) -> None:
        """Stop one actor and free its devices."""
        if actor in self._ready:
            _finish(self._begin_close([actor]), CLOSE_S)
        ray.kill(actor)
        self._forget(actor)

    def bury(self, actor: Any, node: str | None = None) -> None:
        """End what is left of an actor that is dead or hangs: its process, and all that it has started. Does not fail.

        Of an actor that was ended already nothing is left.

        `ray.kill` alone asks the process itself, which one that is stopped never hears of, and an engine's processes on
        a GPU outlive their parent.

        Args:
            node: its id, for an actor that is on no bundle.
        """
        if actor not in self._marks:
            return
        mark, node = self._marks[actor], self._nodes.get(actor, node)
        self._forget(actor)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(actor)
            if node == self._node:
                kill_with_environment(ACTOR, mark)
            elif node is not None:
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                killing = _kill_there.options(scheduling_strategy=there).remote(mark)
                ray.get(killing, timeout=BURY_S)

    def _forget(self, actor: Any) -> None:
        self._actors.remove(actor)
        self._ready.pop(actor, None)
        self._marks.pop(actor, None)
        self._nodes.pop(actor, None)
        if actor in self._ranks:
            self._ranks.remove(actor)

    def close(self) -> None:
        """Stop every actor and give the resources back. Does nothing when called again."""
        if not self._closed:
            while_it_lives(self._close)
            self._closed = True

    def _close(self) -> None:
        leaving = [rank.close.remote() for rank in self._ranks]
        _finish(self._begin_close(list(self._ready)), CLOSE_S)
        _finish(leaving, RANK_CLOSE_S)
        for actor in self._actors:
            ray.kill(actor)
        self._reservation.release()

    def _begin_close(self, actors: list[Any]) -> list[ray.ObjectRef]:
        """Ask those actors to close that are up."""
        refs = [self._ready[actor] for actor in actors]
        up, _ = ray.wait(refs, num_returns=len(refs), timeout=0) if refs else ([], [])
        return [actor.close.remote() for actor in actors if self._ready[actor] in up]

    def _spawn_holder(self, kind: Any, options: dict[str, Any], *args: Any) -> Any:
        """Start an actor that answers `ready`, and that has to `close` what it holds."""
        actor = self._spawn(kind, options, *args)
        self._ready[actor] = actor.ready.remote()
        return actor

    def _spawn(self, kind: Any, options: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        mark = uuid.uuid4().hex
        options["runtime_env"]["env_vars"][ACTOR] = mark
        actor = kind.options(**options).remote(*args, **kwargs)
        self._actors.append(actor)
        self._marks[actor] = mark
        return actor


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]  # Ray has no types
def _kill_there(mark: str) -> None:
    kill_with_environment(ACTOR, mark)


def _finish(closing: list[ray.ObjectRef], timeout_s: float) -> None:
    """Let actors close what they hold; those that do not in time are killed with it."""
    if closing:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait(closing, num_returns=len(closing), timeout=timeout_s)


def _loopback() -> dict[str, str]:
    """Environment of processes on a Ray that is all on this machine: collectives stay there too."""
    if ray.util.get_node_ip_address() != "127.0.0.1":
        return {}
    return {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
