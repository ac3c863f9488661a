"""The records of a plan: bundles, each actor's slot in every phase, memory per device, predicted times, alternatives.

`planner.search` makes them, `ray_binding` and the actor graph carry them out, `planner.show` shows them and
`planner.simulate` simulates them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from s2l_ray.kinds import Device, PhaseName, PlacementModeName, Role, Source, Transfer
from s2l_ray.placement.dtype import DtypeChoice

PHASES: tuple[PhaseName, ...] = ("explore", "mix", "on-policy")
"""explore: G_s = 0, the explorer samples everything; mix: both sample; on-policy: G_w = 0."""


@dataclass(frozen=True)
class PlannedBundle:
    """One bundle of the run's placement group: devices of one node."""

    node: int
    """Position in the inventory, nodes of all groups counted through."""
    gpus: tuple[int, ...]
    """Which of the node's GPUs; () for a CPU bundle."""
    resources: dict[str, float]
    """What Ray reserves: {"GPU": 2, "CPU": 4}, {"CPU": 0.5}."""


@dataclass(frozen=True)
class TrainerSlot:
    """The devices on which one trainer rank runs."""

    index: int
    """The rank."""
    bundle: int
    """Position in `Layout.bundles`."""
    devices: tuple[int, ...]
    """The rank's one GPU, by position in `PlannedBundle.gpus`; () on a CPU bundle."""
    share: float
    """Fraction of its GPU that Ray accounts to the rank; number of CPUs on a CPU bundle."""
    role: Literal["trainer"] = field(default="trainer", init=False)


@dataclass(frozen=True)
class EngineSlot:
    """The devices on which one engine runs. Role and index name the same engine in every phase."""

    role: Source
    index: int
    """Number of the engine within its role."""
    bundle: int
    """Position in `Layout.bundles`."""
    devices: tuple[int, ...]
    """GPUs by position in `PlannedBundle.gpus`: the engine's tensor-parallel ranks in order. () on a CPU bundle."""
    share: float
    """Fraction of each of its GPUs that Ray accounts to the engine; number of CPUs on a CPU bundle."""
    kv_cache_bytes: int
    """KV cache on each device."""
    transfer: Transfer | None = None
    """How weights reach a learner engine; None for an explorer engine, whose weights never change."""

    @property
    def tensor_parallel(self) -> int:
        """Worker processes of the engine."""
        return max(1, len(self.devices))


Slot: TypeAlias = TrainerSlot | EngineSlot
"""One actor's place on a bundle. Shares of the slots that use a device in one phase sum to at most 1."""


@dataclass(frozen=True)
class PhaseSlots:
    """Every actor's slot from `first_step` to `last_step`, both included."""

    name: PhaseName
    first_step: int
    last_step: int
    slots: tuple[Slot, ...]

    @property
    def trainers(self) -> tuple[TrainerSlot, ...]:
        """The slots of trainer ranks."""
        return tuple(slot for slot in self.slots if slot.role == "trainer")

    @property
    def engines(self) -> tuple[EngineSlot, ...]:
        """The slots of explorer and learner engines."""
        return tuple(slot for slot in self.slots if slot.role != "trainer")

    def engines_of(self, source: Source) -> tuple[EngineSlot, ...]:
        """The slots of the engines that hold one of the two models."""
        return tuple(slot for slot in self.engines if slot.role == source)


@dataclass(frozen=True)
class Layout:
    """The part of a plan that is carried out.

    Between two phases the engines whose slots end are stopped and those whose slots begin are started (the hand-over);
    slots in both phases stay as they are. Trainer slots are the same in all phases.
    """

    mode: PlacementModeName
    device: Device
    bundles: tuple[PlannedBundle, ...]
    phases: tuple[PhaseSlots, ...]
    """In order, without gaps, from step 1 to the last."""
    sleep: bool
    """Engines that share a device with a trainer rank sleep while it works, and the trainer's ranks wait while they
    sample; explorers among them then cannot sample ahead."""
    recomputed_layers: int | None = None
    """Layers that the trainer computes again, where trainer.gradient_checkpointing: auto leaves that to the plan."""
    replicas: int = 1
    """Groups of the trainer's ranks, dealt in order, that hold a copy of the sharded model each."""

    def phase_at(self, step: int) -> PhaseSlots:
        """The phase of a step (1-based); the last phase for anything later."""
        return next((phase for phase in self.phases if step <= phase.last_step), self.phases[-1])

    def shares_gpus_with_trainer(self, slot: EngineSlot) -> bool:
        """Whether an engine has a device in common with a trainer rank."""
        return any(
            trainer.bundle == slot.bundle and not set(trainer.devices).isdisjoint(slot.devices)
            for trainer in self.phases[0].trainers
        )

    def sleeps(self, slot: EngineSlot) -> bool:
        """Whether an engine sleeps while the trainer works."""
        return self.sleep and self.shares_gpus_with_trainer(slot)


@dataclass(frozen=True)
class DeviceLoad:
    """One device in one phase."""

    node: int
    gpu: int | None
    """Number on its node; None: the node's CPU memory."""
    capacity_bytes: int
    used_bytes: int
    """The largest sum that lives on it at any moment of a step, headroom left out."""
    ledger: dict[str, int]
    """Bytes per item, of every item that is on the device at that moment; they sum to `used_bytes`. Keys such as
    "trainer/weights", "trainer/gradients", "trainer/optimizer", "trainer/activations", "learner/weights",
    "learner/kv_cache", "explorer/weights", "transfer_buffers", "context"."""
    roles: tuple[str, ...]
    """Such as "trainer:3", "learner:1/0" (engine 1, tensor-parallel rank 0)."""


@dataclass(frozen=True)
class PhasePlan:
    """Prediction for the steps of one phase."""

    name: PhaseName
    steps: int
    first_step: int
    last_step: int
    step_seconds: float
    """Mean over the phase's steps."""
    seconds: dict[str, float]
    """Seconds of each part of an average step by itself: "explore", "learner_generate", "update" (with old and
    reference log-probs), "weight_sync", "sleep_wake", "verify". They overlap: their sum may exceed step_seconds."""
    utilisation: dict[str, float]
    """Share of a step in which devices of each role work, 0 to 1; "all" over all devices."""
    explorer_flops: float
    learner_flops: float
    """FLOPs of all rollouts of the phase; so is explorer_flops."""
    gpus: tuple[DeviceLoad, ...]


@dataclass(frozen=True)
class WeightSyncPlan:
    """One weight sync."""

    bytes: int
    seconds: float
    transfers: dict[Transfer, int]
    """Learner engines by the way weights reach them (largest number over the phases)."""


@dataclass(frozen=True)
class Alternative:
    """A plan that was considered and lost."""

    description: str
    """Such as "colocated, 8 trainer ranks, tensor parallel: learner 2"."""
    mode: PlacementModeName
    fits: bool
    run_seconds: float | None
    """None: it does not fit."""
    reason: str
    """Why it lost: what does not fit and by how much, or what it costs more, and where."""


@dataclass(frozen=True)
class Saving:
    """Rollout FLOPs of the run against plain GRPO, where the learner samples everything."""

    explorer_flops: float
    learner_flops: float
    grpo_flops: float

    @property
    def saved(self) -> float:
        """Share of GRPO's rollout FLOPs that the run does not spend; negative if it spends more."""
        return 1 - (self.explorer_flops + self.learner_flops) / self.grpo_flops


@dataclass(frozen=True)
class Plan:
    """A plan for a run on an inventory, or why there is none."""

    fits: bool
    problems: tuple[str, ...]
    """Why nothing fits, what is short and what to change; empty when it fits."""
    mode: PlacementModeName | None = None
    layout: Layout | None = None
    phases: tuple[PhasePlan, ...] = ()
    weight_sync: WeightSyncPlan | None = None
    saving: Saving | None = None
    run_seconds: float | None = None
    """Seconds of all steps, without start, evaluation and checkpoints."""
    ranks: int = 0
    tensor_parallel: dict[Role, int] = field(default_factory=dict)
    """Tensor-parallel size of each kind of engine."""
    dtype: DtypeChoice | None = None
    """The type in which engines and trainer compute, and why."""
    notes: tuple[str, ...] = ()
    """What the user should know: GPUs left idle and why, sizes that do not divide, hand-overs and what each gains."""
    alternatives: tuple[Alternative, ...] = ()
    """Best first."""
