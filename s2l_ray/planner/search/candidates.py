"""The records of the search over GPUs: a placement by counts, and why one does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from s2l_ray.config.placement_modes import PLACEMENT_MODES, PlacementMode
from s2l_ray.kinds import PlacementModeName, Source
from s2l_ray.planner.search.fitting import Fit, Misfit
from s2l_ray.planner.search.frame import Frame
from s2l_ray.planner.search.handover import BundleSplit
from s2l_ray.planner.search.pools import NodePool, PackedNodes
from s2l_ray.planner.workload import Workload

MODES = tuple(PLACEMENT_MODES.values())


@dataclass(frozen=True)
class CandidateKey:
    """The choices that come before engine bundles are split between learner and explorer."""

    mode: PlacementMode
    trainers: NodePool
    samplers: NodePool
    ranks: int
    learner_tp: int
    explorer_tp: int
    """0: no step needs the explorer."""
    replicas: int = 1
    """Of the trainer's model; the ranks are dealt to them in order."""

    @property
    def sharing(self) -> int:
        """Ranks that share one copy of the model."""
        return self.ranks // self.replicas

    def tp(self, role: Source) -> int:
        """Tensor-parallel size."""
        return self.learner_tp if role == "learner" else self.explorer_tp

    @property
    def beside(self) -> tuple[Source, ...]:
        """Kinds of engine that share GPUs with the trainer's ranks."""
        return tuple(role for role in self.mode.sleeping if self.tp(role))

    @property
    def bundle_gpus(self) -> int:
        """GPUs of an engine bundle, large enough for either kind of engine."""
        return max(self.learner_tp, self.explorer_tp)

    def engines_per_bundle(self, role: Source) -> int:
        """Engines of a role that one bundle holds."""
        return self.bundle_gpus // self.tp(role)


Family: TypeAlias = tuple[PlacementModeName, int, int, bool]
"""Mode, tensor-parallel size of the learner and of the explorer, and whether there is a hand-over."""


@dataclass(frozen=True)
class Candidate:
    """A placement that fits, by counts."""

    key: CandidateKey
    rows: tuple[PackedNodes, ...]
    """Nodes of `key.trainers` with ranks; their bundles count only if the samplers' nodes are the same."""
    sampler_rows: tuple[PackedNodes, ...]
    """Nodes of `key.samplers` with bundles."""
    nodes: int
    """Number of nodes with ranks."""
    replica_nodes: int
    """Number of nodes that the ranks of one replica span at most."""
    available: int
    """Engine bundles that there is room for; `bundles.total` of them are used."""
    shared: dict[Source, int]
    """Engines beside trainer ranks."""
    trainer: Fit
    """A rank's device, with the engines beside it."""
    recomputed: int | None
    """Layers that the trainer computes again, where the configuration leaves that to the plan."""
    bundle_fit: dict[Source, Fit]
    """A device of an engine bundle with an engine of this role."""
    bundles: BundleSplit
    run_seconds: float

    def work(self, frame: Frame) -> Workload:
        """The run's work with this placement."""
        if self.recomputed is None:
            return frame.work
        return replace(frame.work, recompute=self.recomputed / frame.learner.layers)

    @property
    def gpus(self) -> int:
        """Number of GPUs that are used."""
        return self.key.ranks + self.bundles.total * self.key.bundle_gpus

    @property
    def family(self) -> Family:
        """Only the fastest candidate of a family is kept."""
        return (self.key.mode.name, self.key.learner_tp, self.key.explorer_tp, self.bundles.hands_over)

    def order(self) -> tuple[Any, ...]:
        """Fastest first; of equals the one with fewer GPUs, then a fixed order."""
        key = self.key
        return (
            self.run_seconds,
            self.gpus,
            MODES.index(key.mode),
            self.bundles.hands_over,
            key.ranks,
            key.replicas,
            key.learner_tp,
            key.explorer_tp,
            key.trainers.nodes,
            key.samplers.nodes,
        )


@dataclass(frozen=True)
class Rejected:
    """A candidate that does not fit."""

    key: CandidateKey
    misfit: Misfit | None
    """None: not for memory."""
    reason: str = ""
