"""Where the actors go: what the planner may choose, and what is forced on it."""

from __future__ import annotations

from typing import Annotated, Literal

from s2l_ray.config.section import Field, LocalPath, Positive, PositiveFloat, Section, YamlWord, model_validator
from s2l_ray.kinds import Device, PlacementModeName, Switch


class PlacementConfig(Section):
    """The placement of actors on nodes: what is forced, and what is left to the planner."""

    mode: Literal["auto"] | PlacementModeName = "auto"
    """auto: whatever the cost model predicts to be fastest of
    `colocated` (every GPU holds a trainer rank, and engines that sleep while it works),
    `separate` (trainer ranks, explorer engines and learner engines each have GPUs of their own) and
    `mixed` (learner engines sleep beside the trainer's ranks; explorer engines have GPUs of their own and never pause).
    Without GPUs it is separate: every actor has its own CPU bundle."""
    hand_over: Annotated[Switch, YamlWord] = "auto"
    """Explorer bundles become learner engines when the explorer's share of the groups has fallen. auto: when the cost
    model says that it pays; on: whenever it is possible; off: never."""
    hand_over_wait_s: Annotated[float, Field(ge=0)] = 0.0
    """How long a step may wait for engines that are being handed over. 0: training goes on meanwhile, and they join
    between the first two steps at which they are ready."""
    device: Literal["auto"] | Device = "auto"
    """The devices that actors are placed on. auto: GPUs if the cluster has any, else CPUs."""
    inventory: LocalPath | None = None
    """YAML file that describes the nodes (see `s2l plan --help`), for clusters whose nodes do not exist yet
    (autoscaling); default: the nodes that Ray has."""
    nodes: Positive | None = None
    """Plan for this many nodes that are alike, not for all: of the kind with the most GPUs, then the most CPUs, of
    which there are so many. Runs that share a cluster, such as the trials of a study, each have a part of it so."""
    cpus: PositiveFloat | None = None
    """Plan for this many CPUs of one node, with the same share of its memory, and for no GPUs: runs that share a
    node each have a part of it so. Not with `nodes`."""
    headroom: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    """Share of each GPU's memory that plans leave free, against fragmentation and what the ledger does not know."""
    tensor_parallel_across_nodes: bool = False
    """Let `s2l plan` consider tensor-parallel groups that cross nodes. Such a plan can be looked at, not run."""

    @model_validator(mode="after")
    def _one_slice(self) -> PlacementConfig:
        if self.cpus is not None and self.nodes is not None:
            raise ValueError("nodes and cpus are both given; cpus are those of one node, so leave one of the two out")
        if self.cpus is not None and self.device == "gpu":
            raise ValueError("cpus plans for no GPUs, but device is gpu; leave one of the two out")
        return self
