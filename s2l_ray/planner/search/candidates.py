"""The records of the search: what is planned, and a placement by counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from s2l_ray.kinds import PlacementMode, Source
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner import costs
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.costs import Rates, Sampling
from s2l_ray.planner.memory import dtype_bytes
from s2l_ray.planner.search.fitting import Fit, Misfit
from s2l_ray.planner.search.handover import BundleSplit
from s2l_ray.planner.search.pools import Pool, Row
from s2l_ray.planner.workload import Split, Workload

if TYPE_CHECKING:
    from s2l_ray.config import Config, EngineConfig

MODES: tuple[PlacementMode, ...] = ("colocated", "separate", "mixed")


@dataclass(frozen=True)
class Frame:
    """What is being planned."""

    config: Config
    inventory: Inventory
    work: Workload
    learner: ModelShape
    explorer: ModelShape
    cuda: bool
    """Actors run on real GPUs: not on CPUs, nor on logical GPUs."""

    @property
    def dtype_bytes(self) -> int:
        return dtype_bytes(self.config)

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """Of all phases, one after the other."""
        return tuple(split for phase in self.work.phases for split in phase.splits)

    @property
    def roles(self) -> tuple[Source, ...]:
        """Kinds of engine that the run needs."""
        return ("learner", "explorer") if self.work.explores else ("learner",)

    @property
    def assumptions(self) -> list[str]:
        """What every plan tells its reader."""
        work = self.work
        lines = [
            f"responses are taken to have {work.response_tokens:.0f} tokens on average, of at most {work.max_tokens}, "
            f"and prompts {work.prompt_tokens:.0f}"
        ]
        if work.banked:
            lines.append("explorer rollouts are read from the bank (bank.mode=read): they take no engine and no time")
        return lines

    def shape(self, role: Source) -> ModelShape:
        return self.learner if role == "learner" else self.explorer

    def engine(self, role: Source) -> EngineConfig:
        return self.config.engines.learner if role == "learner" else self.config.engines.explorer

    def rates(self, pool: Pool, threads: int) -> Rates:
        return costs.rates(list(pool.specs), self.inventory.efficiency, threads=threads)

    def sampling(self, rollouts: int, prompts: int | None = None) -> Sampling:
        """Of one step, or of so many of its prompts."""
        work = self.work
        return Sampling(prompts or work.prompts, rollouts, work.prompt_tokens, work.response_tokens, work.max_tokens)

    def budget(self, pool: Pool) -> int:
        """Bytes of each GPU that a plan may use."""
        return int(pool.gpu_memory_bytes * (1 - self.config.placement.headroom))


@dataclass(frozen=True)
class Key:
    """What is chosen before bundles are split."""

    mode: PlacementMode
    trainers: Pool
    samplers: Pool
    ranks: int
    learner_tp: int
    explorer_tp: int
    """0: no step needs the explorer."""

    def tp(self, role: Source) -> int:
        """Tensor-parallel size."""
        return self.learner_tp if role == "learner" else self.explorer_tp

    @property
    def beside(self) -> tuple[Source, ...]:
        """Kinds of engine that share GPUs with the trainer's ranks."""
        if self.mode == "separate":
            return ()
        return ("learner",) if self.mode == "mixed" or not self.explorer_tp else ("learner", "explorer")

    @property
    def bundle_gpus(self) -> int:
        """A bundle may hold either kind of engine."""
        return max(self.learner_tp, self.explorer_tp)

    def engines_per_bundle(self, role: Source) -> int:
        """Engines."""
        return self.bundle_gpus // self.tp(role)


@dataclass(frozen=True)
class Candidate:
    """A placement that fits, by counts."""

    key: Key
    rows: tuple[Row, ...]
    """Nodes of `key.trainers` with ranks; their bundles count only if the samplers' nodes are the same."""
    sampler_rows: tuple[Row, ...]
    """Nodes of `key.samplers` with bundles."""
    nodes: int
    """With ranks."""
    available: int
    """Bundles; `bundles.total` of them are used."""
    shared: dict[Source, int]
    """Engines beside trainer ranks."""
    trainer: Fit
    """A rank's device, with the engines beside it."""
    bundle_fit: dict[Source, Fit]
    """Device of a bundle, with an engine of this role."""
    bundles: BundleSplit
    run_seconds: float

    @property
    def gpus(self) -> int:
        """Used."""
        return self.key.ranks + self.bundles.total * self.key.bundle_gpus

    @property
    def family(self) -> tuple:
        """Candidates that are compared with other families, not with their own."""
        return (self.key.mode, self.key.learner_tp, self.key.explorer_tp, self.bundles.hands_over)

    def order(self) -> tuple:
        """Fastest first; of equals the one with fewer GPUs, then a fixed order."""
        key = self.key
        return (
            self.run_seconds,
            self.gpus,
            MODES.index(key.mode),
            self.bundles.hands_over,
            key.ranks,
            key.learner_tp,
            key.explorer_tp,
            key.trainers.nodes,
            key.samplers.nodes,
        )


@dataclass(frozen=True)
class Rejected:
    """A candidate that does not fit."""

    key: Key
    misfit: Misfit | None
    """None: not for memory."""
    reason: str = ""
