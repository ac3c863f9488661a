"""The actor graph of a run: every actor started on its bundle, wired, and stopped on every exit."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.calls import fetch
from actors.engine import engine_options
from actors.explorer import Explorer
from actors.learner import Learner
from actors.scheduler import Scheduler, StepBatch
from actors.trainer import TrainerGroup, TrainerRank
from actors.verifier import Verifier
from s2l_ray.config import Config
from s2l_ray.errors import PlacementError
from s2l_ray.generation.engine import EngineSettings
from s2l_ray.placement.ray_binding import Bundle, reserve
from s2l_ray.rollout import Prompt, RolloutSummary, Source
from s2l_ray.schedule import Schedule
from s2l_ray.scheduling import StepPlanner

Progress = Callable[[str], None]


def connect(address: str | None) -> bool:
    """Connect this process to Ray. Returns True if it started a private Ray, which then ends with this process.

    Args:
        address: None takes RAY_ADDRESS (as `ray job submit` sets it), or starts Ray on this machine, on loopback only.
    """
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with _on_loopback(), _quiet("ray"):  # it announces that token authentication is on, as it should be
            ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
        return True
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as error:
        raise PlacementError(
            f"no Ray cluster answers at {address} (cluster.address, RAY_ADDRESS): {error}. Where a cluster asks for a "
            "token, RAY_AUTH_MODE=token and the token must be set here too"
        ) from error
    return False


class ActorGraph:
    """Explorer engines, learner engines, verifier pool, scheduler and trainer ranks, exchanging object refs.

    Args:
        config: of the run.
        train, held_out: rendered prompts, by id, distinct between the two.
        progress: told what is being started.
    """

    def __init__(self, config: Config, train: list[Prompt], held_out: list[Prompt], progress: Progress) -> None:
        self._config = config
        self._train = train
        self._actors: list[Any] = []
        self._closers: list[Any] = []
        self._explorers: list[Any] = []
        self._group: PlacementGroup | None = None
        self.version = -1
        """Weight version that the learner engines hold; -1: none yet."""
        try:
            self._start({p.id: p for p in [*train, *held_out]}, progress)
        except BaseException:
            self.close()
            raise

    def _start(self, prompts: dict[str, Prompt], progress: Progress) -> None:
        config = self._config
        timeout = config.cluster.start_timeout_s
        engines = config.engines
        # Without a share for it in any step, the explorer's engines are not started.
        explores = any(self._schedule.share(step).explorer for step in range(1, config.schedule.steps + 1))
        bundles = self._bundles((engines.explorer.count or 1) if explores else 0)
        progress("reserving resources")
        self._group = reserve(bundles, timeout, progress)
        places = iter(range(len(bundles)))
        table = ray.put(prompts)

        progress("starting engines, verifiers and trainer")
        ranks = [
            self._spawn(TrainerRank, next(places), self._trainer_options(), config, r)
            for r in range(config.trainer.ranks or 1)
        ]
        self._learners = [
            self._engine(Learner, "learner", next(places), table) for _ in range(engines.learner.count or 1)
        ]
        if explores:
            self._explorers = [
                self._engine(Explorer, "explorer", next(places), table) for _ in range(engines.explorer.count or 1)
            ]
        verifier = config.verifier
        verifiers = [
            self._spawn(Verifier, None, {}, verifier.kind, verifier.timeout_s, table) for _ in range(verifier.workers)
        ]
        self._closers = [*self._learners, *self._explorers, *verifiers]
        self.trainer = TrainerGroup(ranks, config.cluster.step_timeout_s, config.cluster.swap_timeout_s)
        starting = {actor.ready.remote(): actor for actor in self._closers}
        self.trainer.build()
        self._wait_ready(starting, timeout)
        progress("connecting trainer and learner engines")
        self.trainer.connect(self._learners, engines.learner.tensor_parallel or 1, "weights-0")
        self._scheduler = self._spawn_scheduler(verifiers)

    @property
    def _patience(self) -> float:
        """The scheduler bounds its own waits; the margin lets its message arrive before ours."""
        return 2 * self._config.cluster.step_timeout_s + 30

    @property
    def _schedule(self) -> Schedule:
        return self._config.schedule.build(self._config.rollout.group_size)

    @property
    def explores(self) -> bool:
        """Whether there are explorer engines."""
        return bool(self._explorers)

    def collect(self, step: int) -> StepBatch:
        """The step's whole, verified groups, by reference."""
        return fetch(self._scheduler.collect.remote(step, self.version), self._patience, f"collecting step {step}")

    def evaluate(self, prompt_ids: list[str], sources: list[Source]) -> list[list[RolloutSummary]]:
        """The evaluation rollouts' numbers, per source; the sources' engines work at the same time."""
        samples = self._config.evaluation.samples
        calls = [self._scheduler.evaluate.remote(prompt_ids, source, samples, self.version) for source in sources]
        return fetch(calls, self._patience, "evaluation")

    def swap(self, version: int) -> int:
        """Hand the trainer's weights to the learner engines as `version`. Returns the bytes sent."""
        self.version = -1
        sent = self.trainer.swap(self._learners, version)
        self.version = version
        return sent

    def score(self, token_ids: np.ndarray) -> list[np.ndarray]:
        """Log-probs of one text under every learner engine's weights, float32 [tokens - 1] each."""
        return fetch([learner.score.remote(token_ids) for learner in self._learners], self._patience, "scoring")

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
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _bundles(self, explorers: int) -> list[Bundle]:
        trainer, engines = self._config.trainer, self._config.engines
        return [
            *[{"CPU": trainer.cpus}] * (trainer.ranks or 1),
            *[{"CPU": engines.learner.cpus}] * (engines.learner.count or 1),
            *[{"CPU": engines.explorer.cpus}] * explorers,
        ]

    def _engine(self, kind: Any, source: Source, place: int, table: ray.ObjectRef) -> Any:
        config = self._config
        settings = EngineSettings(
            model=getattr(config.models, source),
            source=source,
            engine=getattr(config.engines, source),
            sampling={"train": getattr(config.rollout, source), "eval": config.evaluation.sampling},
            max_tokens=config.rollout.max_tokens,
            max_model_len=config.max_model_len(source),
            kv_cache_bytes=int((getattr(config.engines, source).kv_cache_gb or 0.5) * 2**30),
            dtype=config.models.dtype,
            trust_remote_code=config.models.trust_remote_code,
            weight_transfer="gloo" if source == "learner" else None,
        )
        return self._spawn(kind, place, engine_options(settings), settings, table)

    def _trainer_options(self) -> dict[str, Any]:
        trainer = self._config.trainer
        env = {"OMP_NUM_THREADS": str(trainer.threads), "NCCL_CUMEM_ENABLE": "0"}
        if ray.util.get_node_ip_address() == "127.0.0.1":
            env["GLOO_SOCKET_IFNAME"] = "lo"
        return {"num_cpus": trainer.cpus, "runtime_env": {"env_vars": env}}

    def _spawn_scheduler(self, verifiers: list[Any]) -> Any:
        config = self._config
        planner = StepPlanner([p.id for p in self._train], self._schedule, config.rollout.prompts_per_step, config.seed)
        return self._spawn(
            Scheduler,
            None,
            {},
            planner,
            steps=config.schedule.steps,
            explore_ahead=config.rollout.explore_ahead_steps,
            ranks=config.trainer.ranks or 1,
            mini_batch_prompts=config.objective.mini_batch_prompts or config.rollout.prompts_per_step,
            timeout_s=config.cluster.step_timeout_s,
            engines={"explorer": self._explorers, "learner": self._learners},
            verifiers=verifiers,
        )

    def _spawn(self, kind: Any, place: int | None, options: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if place is not None:
            strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=place)
            options = {**options, "scheduling_strategy": strategy}
        actor = kind.options(**options).remote(*args, **kwargs)
        self._actors.append(actor)
        return actor

    def _wait_ready(self, starting: dict[ray.ObjectRef, Any], timeout: float) -> None:
        done, late = ray.wait(list(starting), num_returns=len(starting), timeout=timeout)
        fetch(done, timeout, "starting")  # raises what an actor raised while it started
        if late:
            names = sorted(repr(starting[ref]) for ref in late)
            raise PlacementError(f"{names} did not start within {timeout:.0f} s (cluster.start_timeout_s)")


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray started in here listens on 127.0.0.1 only.

    Asked for 127.0.0.1, Ray takes this machine's outward address instead, and listens on every interface, unless it is
    built for a single machine: that is what this constant says. With it, its servers bind to loopback.
    """
    constants = ray._private.ray_constants
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
