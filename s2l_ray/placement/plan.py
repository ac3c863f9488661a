"""What a plan says: bundles, who sits on each in every phase, memory per device, times, and what was rejected.

Plain records. `search` makes them, `ray_binding` and the actor graph carry them out, `show` shows them and `simulate`
simulates them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from s2l_ray.kinds import Device, PhaseName, PlacementMode, Role, Transfer
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
class Seat:
    """One actor on (part of) a bundle."""

    role: Role
    index: int
    """Trainer rank, or number of the engine within its role; role and index name one actor in all phases."""
    bundle: int
    devices: tuple[int, ...]
    """Which of the bundle's GPUs, by position in `PlannedBundle.gpus`; for an engine these are its tensor-parallel
    ranks in order. () on a CPU bundle."""
    share: float
    """Of each device, what Ray accounts to this actor; shares of the actors that sit on a device at one time sum to at
    most 1. Its CPUs on a CPU bundle."""
    kv_cache_bytes: int = 0
    """Engines: KV cache on each device."""
    transfer: Transfer | None = None
    """Learner engines: how weights reach it."""


@dataclass(frozen=True)
class PhaseSeats:
    """Who sits where from `first_step` to `last_step`, both included."""

    name: PhaseName
    first_step: int
    last_step: int
    seats: tuple[Seat, ...]


@dataclass(frozen=True)
class Layout:
    """What has to be carried out. Between two phases, seats that end are vacated and seats that begin are taken (the
    hand-over); seats in both stay as they are. Trainer seats are the same in all phases.
    """

    mode: PlacementMode
    device: Device
    bundles: tuple[PlannedBundle, ...]
    phases: tuple[PhaseSeats, ...]
    """In order, without gaps, from step 1 to the last."""
    sleep: bool
    """Engines that share a device with a trainer rank sleep while it works, and the trainer's ranks wait while they
    sample; explorers among them then cannot sample ahead."""

    def phase_at(self, step: int) -> PhaseSeats:
        """The phase of a step (1-based); the last phase for anything later."""
        return next((phase for phase in self.phases if step <= phase.last_step), self.phases[-1])

    def beside_trainer(self, seat: Seat) -> bool:
        """Whether an engine's seat shares a device with a trainer rank."""
        return seat.role != "trainer" and any(
            other.role == "trainer" and other.bundle == seat.bundle and set(other.devices) & set(seat.devices)
            for other in self.phases[0].seats
        )


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
    """Of an average step, each measured alone: "explore", "learner_generate", "update" (old and reference log-probs
    included), "weight_sync", "sleep_wake", "verify"; their sum is more than step_seconds where they overlap."""
    utilisation: dict[str, float]
    """Share of a step in which devices of each role work, 0 to 1; "all" over all devices."""
    explorer_flops: float
    learner_flops: float
    """Of all rollouts of the phase."""
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
    """Such as "colocated, 8 trainer ranks, learner tensor parallel 2"."""
    mode: PlacementMode
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
    """The answer."""

    fits: bool
    problems: tuple[str, ...]
    """Why nothing fits, what is short and what to change; empty when it fits."""
    mode: PlacementMode | None = None
    layout: Layout | None = None
    phases: tuple[PhasePlan, ...] = ()
    weight_sync: WeightSyncPlan | None = None
    saving: Saving | None = None
    run_seconds: float | None = None
    """Of all steps; without start, evaluation and checkpoints."""
    ranks: int = 0
    tensor_parallel: dict[Role, int] = field(default_factory=dict)
    """Per engine role."""
    dtype: DtypeChoice | None = None
    """In which type engines and trainer compute, and why."""
    notes: tuple[str, ...] = ()
    """What the user should know: GPUs left idle and why, sizes that do not divide, hand-overs and what each gains."""
    alternatives: tuple[Alternative, ...] = ()
    """Best first."""
