"""The frame that every planner starts from: on GPUs, on CPUs and for explorers alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from s2l_ray.errors import PlacementError
from s2l_ray.kinds import Device, Source, Transfer
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner import costs
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.costs import Rates, SamplingWork
from s2l_ray.planner.memory import dtype_bytes
from s2l_ray.planner.search.pools import NodePool
from s2l_ray.planner.workload import Split, Workload, workload

if TYPE_CHECKING:
    from s2l_ray.config import Config, EngineConfig
    from s2l_ray.config.placement_modes import PlacementMode


@dataclass(frozen=True)
class Frame:
    """What is planned: the run, the nodes, and the kind of device that actors are placed on."""

    config: Config
    """The run's configuration, with models.dtype settled."""
    inventory: Inventory
    work: Workload
    device: Device
    cuda: bool
    """Actors run on real GPUs: not on CPUs, nor on logical GPUs."""

    @cached_property
    def learner(self) -> ModelShape:
        """The learner's architecture."""
        return ModelShape.load(self.config.models.learner)

    @cached_property
    def explorer(self) -> ModelShape:
        """The explorer's architecture."""
        return ModelShape.load(self.config.models.explorer)

    @property
    def dtype_bytes(self) -> int:
        """Bytes of an element of models.dtype."""
        return dtype_bytes(self.config)

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """The splits of all phases, one phase after the other."""
        return tuple(split for phase in self.work.phases for split in phase.splits)

    @property
    def roles(self) -> tuple[Source, ...]:
        """Kinds of engine that the run needs."""
        return ("learner", "explorer") if self.work.explores else ("learner",)

    @property
    def assumptions(self) -> list[str]:
        """Notes that every plan carries."""
        work = self.work
        lines = [
            f"responses are taken to have {work.response_tokens:.0f} tokens on average, of at most {work.max_tokens}, "
            f"and prompts {work.prompt_tokens:.0f}"
        ]
        if work.banked:
            lines.append("explorer rollouts are read from the bank (bank.mode=read): they take no engine and no time")
        return lines

    def shape(self, role: Source) -> ModelShape:
        """The architecture of the learner or the explorer."""
        return self.learner if role == "learner" else self.explorer

    def engine(self, role: Source) -> EngineConfig:
        """engines.learner or engines.explorer."""
        return self.config.engines.learner if role == "learner" else self.config.engines.explorer

    @property
    def float32(self) -> bool:
        """Whether the run computes in float32, not in bfloat16."""
        return self.config.models.dtype == "float32"

    def rates(self, pool: NodePool, threads: int) -> Rates:
        """Rates of the slowest device of some nodes."""
        return costs.rates(list(pool.specs), self.inventory.efficiency, float32=self.float32, threads=threads)

    def sampling(self, rollouts: int, prompts: int | None = None) -> SamplingWork:
        """The sampling of one step.

        Args:
            rollouts: of each prompt.
            prompts: default: all prompts of the step.
        """
        work = self.work
        return SamplingWork(
            prompts or work.prompts, rollouts, work.prompt_tokens, work.response_tokens, work.max_tokens
        )

    def transfer(self, role: Source, *, beside: bool) -> Transfer | None:
        """How new weights reach an engine beside a trainer rank, or one on a device of its own; explorers get none."""
        if role == "explorer":
            return None
        if not self.cuda:
            return "gloo"
        return "ipc" if beside else "nccl"

    def transfers(self, mode: PlacementMode) -> tuple[Transfer, ...]:
        """The ways in which the trainer of this mode may send weights."""
        places = (mode.learner_sleeps, True), (mode.has_engine_gpus, False)
        ways = [self.transfer("learner", beside=beside) for has_learners, beside in places if has_learners]
        return tuple(dict.fromkeys(way for way in ways if way))

    def budget(self, pool: NodePool) -> int:
        """Bytes of each GPU that a plan may use."""
        return int(pool.gpu_memory_bytes * (1 - self.config.placement.headroom))


def lacks_gpus(config: Config, inventory: Inventory) -> str:
    """An error message if GPUs are asked for where there are none; else empty."""
    if config.placement.device != "gpu" or inventory.gpus:
        return ""
    return f"placement.device is gpu, but there are none on {inventory.describe()}"


def make_frame(config: Config, inventory: Inventory, *, mean_response_tokens: float | None = None) -> Frame:
    """The frame of a run on these nodes.

    Args:
        config: with models.dtype settled.
        mean_response_tokens: see `workload`.

    Raises:
        PlacementError: GPUs are asked for and there are none, or real and logical ones are in one inventory.
    """
    device = config.placement.device
    if device == "auto":
        device = "gpu" if inventory.gpus else "cpu"
    if lack := lacks_gpus(config, inventory):
        raise PlacementError(lack)
    kinds = {spec.real_gpus for spec in inventory.specs if spec.gpus}
    if device == "gpu" and len(kinds) > 1:
        raise PlacementError("an inventory has either real or logical GPUs, not both")
    cuda = device == "gpu" and kinds == {True}
    work = workload(config, cuda=cuda, mean_response_tokens=mean_response_tokens)
    return Frame(config, inventory, work, device, cuda)
