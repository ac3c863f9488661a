"""The actor graph of a run: every actor started on its seat of the plan, wired, moved, and stopped on every exit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from actors.calls import fetch
from actors.explorer import Explorer
from actors.learner import Learner
from actors.scheduler import Scheduler, StepBatch
from actors.swaps import LearnerMember
from actors.trainer import TrainerGroup, TrainerRank
from actors.verifier import Verifier
from s2l_ray.config import Config
from s2l_ray.errors import PlacementError, S2LError
from s2l_ray.generation.engine import EngineSettings, engine_environment
from s2l_ray.generation.sleeping import Call, fall_asleep, swap_and_wake
from s2l_ray.placement.plan import Layout, Seat
from s2l_ray.placement.ray_binding import Reservation, reserve
from s2l_ray.rollout import Prompt, RolloutSummary, Source
from s2l_ray.scheduling import StepPlanner

Say = Callable[[str], None]
Key = tuple[str, int]
"""Role and index: names an actor that has a seat."""


@dataclass(frozen=True)
class _Engine:
    """An engine actor on its seat."""

    seat: Seat
    actor: Any
    ready: ray.ObjectRef
    deadline: float
    """time.monotonic() by which it must be ready."""

    @property
    def name(self) -> str:
        return f"{self.seat.role} engine {self.seat.index}"


class ActorGraph:
    """Explorer engines, learner engines, verifier pool, scheduler and trainer ranks, exchanging object refs.

    Args:
        config: of the run.
        layout: who sits where in every phase.
        first_step: the step that the run begins or goes on with (1-based).
        train, held_out: rendered prompts, by id, distinct between the two.
        progress: told what is being started.
        note: told what happened to engines on the way.

    Raises:
        PlacementError: the cluster cannot hold the layout, or an actor does not start in time.
    """

    def __init__(
        self,
        config: Config,
        layout: Layout,
        first_step: int,
        train: list[Prompt],
        held_out: list[Prompt],
        progress: Say,
        note: Say,
    ) -> None:
        self._config = config
        self._layout = layout
        self._train = train
        self._note = note
        self._actors: list[Any] = []
        self._closers: list[Any] = []
        self._engines: dict[Key, _Engine] = {}
        self._arriving: dict[Key, _Engine] = {}
        self._lost: set[Key] = set()
        self._reservation: Reservation | None = None
        self.version = -1
        """Weight version that the learner engines hold; -1: none yet."""
        try:
            self._start(first_step, {p.id: p for p in [*train, *held_out]}, progress)
        except BaseException:
            self.close()
            raise

    def _start(self, first_step: int, prompts: dict[str, Prompt], progress: Say) -> None:
        config, timeout = self._config, self._config.cluster.start_timeout_s
        progress("reserving resources")
        may_grow = config.placement.inventory is not None
        self._reservation = reserve(self._layout.bundles, timeout, progress, may_grow)
        self._prompts = ray.put(prompts)

        progress("starting engines, verifiers and trainer")
        seats = self._layout.phase_at(first_step).seats
        ranks = [self._rank(seat, sum(s.role == "trainer" for s in seats)) for seat in seats if seat.role == "trainer"]
        self._engines = {(s.role, s.index): self._engine(s) for s in seats if s.role != "trainer"}
        verifiers = [self._verifier() for _ in range(config.verifier.workers)]
        self.trainer = TrainerGroup(ranks, config.cluster.step_timeout_s, config.cluster.swap_timeout_s)
        starting = {engine.ready: engine.name for engine in self._engines.values()}
        starting |= {verifier.ready.remote(): f"verifier {i}" for i, verifier in enumerate(verifiers)}
        self.trainer.build()
        self._wait_ready(starting, timeout)
        progress("connecting trainer and learner engines")
        self._connect()
        self._scheduler = self._spawn_scheduler(verifiers, len(ranks))

    # ---- what the algorithm asks for --------------------------------------------------------------------------------

    @property
    def explores(self) -> bool:
        """Whether there are explorer engines."""
        return any(engine.seat.role == "explorer" for engine in self._engines.values())

    @property
    def engines(self) -> dict[Source, int]:
        """How many engines sample for each source."""
        return {source: len(self._of(source)) for source in ("explorer", "learner")}

    def moves_before(self, step: int) -> bool:
        """Whether `enter` has something to do before `step`."""
        wanted = {(s.role, s.index) for s in self._layout.phase_at(step).seats if s.role != "trainer"} - self._lost
        return bool(self._arriving) or wanted != self._engines.keys()

    def enter(self, step: int) -> None:
        """Between two steps: engines whose seats end leave, others start on them, and who is ready joins.

        A joining learner engine gets the present weights by broadcast, never from disk. One that does not start is left
        out with a note; the run goes on without it.
        """
        wanted = {(seat.role, seat.index): seat for seat in self._layout.phase_at(step).seats if seat.role != "trainer"}
        for key in [key for key in (*self._engines, *self._arriving) if key not in wanted]:
            self._vacate(key)
        for key, seat in wanted.items():
            if key not in (self._engines.keys() | self._arriving.keys() | self._lost):
                self._arriving[key] = self._engine(seat)
        self._admit()

    def recall(self, observed: dict[int, tuple[int, int]]) -> None:
        """What an adaptive schedule measured in the steps before those that come (`StepRecord.explorer_only`)."""
        self._call(self._scheduler.recall.remote(observed), "recalling the schedule's measurements")

    def collect(self, step: int) -> StepBatch:
        """The step's whole, verified groups, by reference."""
        return fetch(self._scheduler.collect.remote(step, self.version), self._patience, f"collecting step {step}")

    def update(self, batch: StepBatch) -> dict[str, float]:
        """One update of the learner; engines on the trainer's devices sleep meanwhile. Returns its metrics."""
        fall_asleep(*self._sleepers())
        return self.trainer.update(batch)

    def swap(self, version: int) -> int:
        """Hand the trainer's weights to the learner engines as `version`. Returns the bytes sent.

        Sleeping engines wake for it in the order that never holds old weights, new weights and KV cache at once.
        """
        self.version = -1
        report = swap_and_wake(*self._sleepers(), lambda: self.trainer.swap(version))
        for member in report.lost:
            self._lose(("learner", member.number), f"it did not take part in the swap to weight version {version}")
        self.version = version
        return report.bytes

    def evaluate(self, prompt_ids: list[str], sources: list[Source]) -> list[list[RolloutSummary]]:
        """The evaluation rollouts' numbers, per source; the sources' engines work at the same time."""
        samples = self._config.evaluation.samples
        calls = [self._scheduler.evaluate.remote(prompt_ids, source, samples, self.version) for source in sources]
        return fetch(calls, self._patience, "evaluation")

    def score(self, token_ids: np.ndarray) -> list[np.ndarray]:
        """Log-probs of one text under every learner engine's weights, float32 [tokens - 1] each."""
        calls = [engine.actor.score.remote(token_ids) for engine in self._of("learner")]
        return fetch(calls, self._patience, "scoring")

    def close(self) -> None:
        """Stop every actor and give the resources back. Safe to call twice, and after a failure."""
        if not ray.is_initialized():
            return
        closing = [actor.close.remote() for actor in self._closers]
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait(closing, num_returns=max(1, len(closing)), timeout=10) if closing else None
        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._closers = [], []
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None

    # ---- engines that come and go -----------------------------------------------------------------------------------

    def _vacate(self, key: Key) -> None:
        """Let an engine finish what it has, stop it, and wait until its devices are free."""
        engine = self._engines.pop(key, None)
        if engine is not None:
            self._call(self._scheduler.retire.remote(*key), f"retiring {engine.name}")
        else:
            engine = self._arriving.pop(key)
        self._stop(engine)

    def _stop(self, engine: _Engine) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait([engine.actor.close.remote()], timeout=10)
        ray.kill(engine.actor)
        for of in (self._actors, self._closers):
            of.remove(engine.actor)

    def _admit(self) -> None:
        """Let the arriving engines that are ready join."""
        if not self._arriving:
            return
        # With none left to sample its share, the explorer is waited for (a run that went back to an earlier step).
        needed = not self.explores and any(role == "explorer" for role, _ in self._arriving)
        wait = self._config.cluster.start_timeout_s if needed else self._config.placement.hand_over_wait_s
        refs = [engine.ready for engine in self._arriving.values()]
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=wait)
        joined = [key for key, engine in self._arriving.items() if engine.ready in ready and self._started(key)]
        for key in joined:
            self._engines[key] = self._arriving.pop(key)
        for key in [key for key, engine in self._arriving.items() if engine.deadline < time.monotonic()]:
            self._lose(key, f"it did not start within {self._config.cluster.start_timeout_s:.0f} s")
        if any(role == "learner" for role, _ in joined):
            self._connect()
            self.swap(self.version)
        for key in joined:
            if key in self._engines:
                self._call(self._scheduler.add.remote(*key, self._engines[key].actor), f"adding {key[0]} engine")

    def _started(self, key: Key) -> bool:
        try:
            fetch(self._arriving[key].ready, 1, "starting")
        except S2LError as error:
            self._note(f"{self._arriving[key].name} is left out: {error}")
            self._lost.add(key)
            return False
        return True

    def _lose(self, key: Key, why: str) -> None:
        """Go on without an engine."""
        engine = self._engines.pop(key, None)
        if engine is not None and hasattr(self, "_scheduler"):
            self._call(self._scheduler.drop.remote(*key), f"dropping {engine.name}")
        engine = engine or self._arriving.pop(key)
        self._lost.add(key)
        self._note(f"going on without {engine.name}: {why}")
        self._stop(engine)

    def _connect(self) -> None:
        """A broadcast group of the trainer and every learner engine there is."""
        members = [
            LearnerMember(e.seat.index, e.actor, max(1, len(e.seat.devices)), e.seat.transfer)
            for e in self._of("learner")
        ]
        self.trainer.connect(members)

    def _sleepers(self) -> tuple[Call, Call]:
        """Explorer and learner engines on the trainer's devices, to be called all at once."""

        def of(source: Source) -> Call:
            engines = [engine for engine in self._of(source) if self._sleeps(engine.seat)]

            def call(method: str, *args: Any) -> None:
                calls = [getattr(engine.actor, method).remote(*args) for engine in engines]
                self._call(calls, f"{source} engines: {method} {' '.join(args)}".rstrip())

            return call

        return of("explorer"), of("learner")

    def _sleeps(self, seat: Seat) -> bool:
        return self._layout.sleep and self._layout.beside_trainer(seat)

    def _of(self, source: Source) -> list[_Engine]:
        return [engine for (role, _), engine in sorted(self._engines.items()) if role == source]

    # ---- starting actors --------------------------------------------------------------------------------------------

    @property
    def _patience(self) -> float:
        """The scheduler bounds its own waits; the margin lets its message arrive before ours."""
        return 2 * self._config.cluster.step_timeout_s + 30

    def _call(self, refs: Any, what: str) -> Any:
        return fetch(refs, self._patience, what)

    def _rank(self, seat: Seat, ranks: int) -> Any:
        trainer = self._config.trainer
        env = {"OMP_NUM_THREADS": str(trainer.threads), "NCCL_CUMEM_ENABLE": "0"}
        if ray.util.get_node_ip_address() == "127.0.0.1":
            env["GLOO_SOCKET_IFNAME"] = "lo"
        options = self._reservation.options(seat, trainer.cpus, env)
        return self._spawn(TrainerRank, options, self._config, seat.index, ranks)

    def _engine(self, seat: Seat) -> _Engine:
        config, source = self._config, seat.role
        settings = EngineSettings(
            model=getattr(config.models, source),
            source=source,
            engine=getattr(config.engines, source),
            sampling={"train": getattr(config.rollout, source), "eval": config.evaluation.sampling},
            max_tokens=config.rollout.max_tokens,
            max_model_len=config.max_model_len(source),
            dtype=config.models.dtype,
            trust_remote_code=config.models.trust_remote_code,
            weight_transfer=seat.transfer,
            tensor_parallel=max(1, len(seat.devices)),
            kv_cache_bytes=seat.kv_cache_bytes,
            load_weights=source == "explorer",
            sleep=self._sleeps(seat),
        )
        options = self._reservation.options(seat, settings.engine.cpus, engine_environment(settings.engine))
        kind = {"explorer": Explorer, "learner": Learner}[source]
        actor = self._spawn(kind, options, settings, self._prompts)
        self._closers.append(actor)
        return _Engine(seat, actor, actor.ready.remote(), time.monotonic() + config.cluster.start_timeout_s)

    def _verifier(self) -> Any:
        verifier = self._config.verifier
        actor = self._spawn(Verifier, {}, verifier.kind, verifier.timeout_s, self._prompts)
        self._closers.append(actor)
        return actor

    def _spawn_scheduler(self, verifiers: list[Any], ranks: int) -> Any:
        config = self._config
        schedule = config.schedule.build(config.rollout.group_size)
        planner = StepPlanner([p.id for p in self._train], schedule, config.rollout.prompts_per_step, config.seed)
        awake = not any(self._sleeps(engine.seat) for engine in self._of("explorer"))
        return self._spawn(
            Scheduler,
            {},
            planner,
            steps=config.schedule.steps,
            explore_ahead=config.rollout.explore_ahead_steps if awake else 0,
            refill_rounds=config.rollout.refill_rounds,
            ranks=ranks,
            mini_batch_prompts=config.objective.mini_batch_prompts or config.rollout.prompts_per_step,
            timeout_s=config.cluster.step_timeout_s,
            engines={source: {e.seat.index: e.actor for e in self._of(source)} for source in ("explorer", "learner")},
            verifiers=verifiers,
        )

    def _spawn(self, kind: Any, options: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        actor = kind.options(**options).remote(*args, **kwargs)
        self._actors.append(actor)
        return actor

    def _wait_ready(self, starting: dict[ray.ObjectRef, str], timeout: float) -> None:
        done, late = ray.wait(list(starting), num_returns=len(starting), timeout=timeout)
        fetch(done, timeout, "starting")  # raises what an actor raised while it started
        if late:
            names = sorted(starting[ref] for ref in late)
            raise PlacementError(f"{names} did not start within {timeout:.0f} s (cluster.start_timeout_s)")
