"""Plans made by hand, for what shows and carries out plans. Figures are plausible; sums and places are exact."""

from __future__ import annotations

from s2l_ray.placement.plan import (
    Alternative,
    DeviceLoad,
    EngineSlot,
    Layout,
    PhasePlan,
    PhaseSlots,
    Plan,
    PlannedBundle,
    Saving,
    TrainerSlot,
    WeightSyncPlan,
)

GIB = 2**30
CAPACITY = 80 * GIB
TRAINER = {"trainer/weights": 4, "trainer/gradients": 4, "trainer/optimizer": 8, "trainer/activations": 12}
LEARNER = {"learner/weights": 8, "learner/kv_cache": 20}
EXPLORER = {"explorer/weights": 4, "explorer/kv_cache": 30}
SHARED = {"transfer_buffers": 1, "context": 2}


def load(node: int, gpu: int | None, roles: tuple[str, ...], *parts: dict[str, int], capacity: int = CAPACITY):
    """A device with `parts` of a ledger, in GiB."""
    ledger = {key: gib * GIB for part in parts for key, gib in part.items()}
    return DeviceLoad(node, gpu, capacity, sum(ledger.values()), ledger, roles)


def phase(name: str, first: int, last: int, gpus, **changes) -> PhasePlan:
    values = {
        "step_seconds": 400.0,
        "seconds": {
            "explore": 300.0, "learner_generate": 0.0 if name == "explore" else 150.0, "update": 240.0,
            "weight_sync": 1.5, "sleep_wake": 3.0, "verify": 12.0,
        },
        "utilisation": {"trainer": 0.6, "learner": 0.1, "explorer": 0.75, "all": 0.55},
        "explorer_flops": 4e18 if name != "on-policy" else 0.0,
        "learner_flops": 2e19 if name != "explore" else 0.0,
    }  # fmt: skip
    return PhasePlan(name, last - first + 1, first, last, gpus=tuple(gpus), **(values | changes))


def separate_plan(nodes: int = 2) -> Plan:
    """`nodes` x 8 GPUs. Node 0 trains. On every other node GPUs 0-3 hold two learner engines of 2, GPUs 4-7 four
    explorer engines, which become two learner engines before step 5. Steps: 1 explore, 2-4 mix, 5-8 on-policy."""
    bundles = [PlannedBundle(0, (gpu,), {"GPU": 1, "CPU": 1}) for gpu in range(8)]
    bundles += [PlannedBundle(n, (g, g + 1), {"GPU": 2, "CPU": 1}) for n in range(1, nodes) for g in (0, 2, 4, 6)]
    trainers = [TrainerSlot(rank, rank, (0,), 1.0) for rank in range(8)]

    def learner(number: int, bundle: int) -> EngineSlot:
        return EngineSlot("learner", number, bundle, (0, 1), 1.0, 20 * GIB, "nccl")

    first = [8 + 4 * k for k in range(nodes - 1)]
    """First bundle of every node but node 0."""
    stay = [learner(2 * k + i, at + i) for k, at in enumerate(first) for i in (0, 1)]
    come = [learner(2 * (nodes - 1) + 2 * k + i, at + 2 + i) for k, at in enumerate(first) for i in (0, 1)]
    explorers = [
        EngineSlot("explorer", 4 * k + gpu, at + 2 + gpu // 2, (gpu % 2,), 1.0, 30 * GIB)
        for k, at in enumerate(first)
        for gpu in range(4)
    ]
    early, late = (*trainers, *stay, *explorers), (*trainers, *stay, *come)
    slots = (PhaseSlots("explore", 1, 1, early), PhaseSlots("mix", 2, 4, early), PhaseSlots("on-policy", 5, 8, late))
    return Plan(
        fits=True,
        problems=(),
        mode="separate",
        layout=Layout("separate", "gpu", tuple(bundles), slots, sleep=False),
        phases=(
            phase("explore", 1, 1, loads_of(bundles, early), step_seconds=301.5),
            phase("mix", 2, 4, loads_of(bundles, early)),
            phase("on-policy", 5, 8, loads_of(bundles, late), step_seconds=320.0),
        ),
        weight_sync=WeightSyncPlan(16_381_470_720, 1.5, {"nccl": 4 * (nodes - 1)}),
        saving=Saving(8e18, 4e19, 8e19),
        run_seconds=301.5 + 3 * 400 + 4 * 320,
        ranks=8,
        tensor_parallel={"learner": 2, "explorer": 1},
        notes=("8 of the explorer's GPUs go to the learner before step 5: it saves 80 s a step",),
        alternatives=(
            Alternative("colocated, 16 trainer ranks, tensor parallel: learner 2", "colocated", True, 3400.0,
                        "618 s slower: engines sleep while the trainer works"),
            Alternative("separate, 4 trainer ranks", "separate", False, None,
                        "trainer/optimizer: node 0 GPU 0 would hold 86.0 of 76.0 GiB"),
        ),
    )  # fmt: skip


def loads_of(bundles, slots, capacity: int = CAPACITY) -> list[DeviceLoad]:
    """Every GPU of 8 a node, with the ledger of the actors on it."""
    found: dict[tuple[int, int], list] = {}
    for slot in slots:
        bundle = bundles[slot.bundle]
        for rank, device in enumerate(slot.devices):
            role = f"{slot.role}:{slot.index}" if slot.role == "trainer" else f"{slot.role}:{slot.index}/{rank}"
            part = {"trainer": TRAINER, "learner": LEARNER, "explorer": EXPLORER}[slot.role]
            found.setdefault((bundle.node, bundle.gpus[device]), []).append((role, part))
    nodes = range(max(bundle.node for bundle in bundles) + 1)
    return [
        load(
            node,
            gpu,
            tuple(role for role, _ in here),
            *(part for _, part in here),
            *([SHARED] if here else []),
            capacity=capacity,
        )
        for node in nodes
        for gpu in range(8)
        for here in [found.get((node, gpu), [])]
    ]


def colocated_plan() -> Plan:
    """1 x 8 GPUs of 100 GiB; each holds a trainer rank, half of a learner engine and an explorer engine."""
    bundles = [PlannedBundle(0, (gpu, gpu + 1), {"GPU": 2, "CPU": 2}) for gpu in (0, 2, 4, 6)]
    trainers = [TrainerSlot(rank, rank // 2, (rank % 2,), 0.4) for rank in range(8)]
    learners = [EngineSlot("learner", i, i, (0, 1), 0.3, 20 * GIB, "ipc") for i in range(4)]
    explorers = [EngineSlot("explorer", i, i // 2, (i % 2,), 0.3, 30 * GIB) for i in range(8)]
    both, late = (*trainers, *learners, *explorers), (*trainers, *learners)
    slots = (PhaseSlots("mix", 1, 4, both), PhaseSlots("on-policy", 5, 8, late))
    return Plan(
        fits=True,
        problems=(),
        mode="colocated",
        layout=Layout("colocated", "gpu", tuple(bundles), slots, sleep=True),
        phases=(
            phase("mix", 1, 4, loads_of(bundles, both, 100 * GIB)),
            phase("on-policy", 5, 8, loads_of(bundles, late, 100 * GIB)),
        ),
        weight_sync=WeightSyncPlan(16_381_470_720, 0.04, {"ipc": 4}),
        saving=Saving(8e18, 9e19, 8e19),
        run_seconds=3200.0,
        ranks=8,
        tensor_parallel={"learner": 2, "explorer": 1},
    )


def cpu_plan() -> Plan:
    """One node without GPUs: a rank, a learner engine, an explorer engine."""
    bundles = tuple(PlannedBundle(0, (), {"CPU": cpus}) for cpus in (1.0, 0.5, 0.5))
    slots = (
        TrainerSlot(0, 0, (), 1.0),
        EngineSlot("learner", 0, 1, (), 0.5, GIB // 2, "gloo"),
        EngineSlot("explorer", 0, 2, (), 0.5, GIB // 2),
    )
    node = load(0, None, ("trainer:0", "learner:0/0", "explorer:0/0"), TRAINER, LEARNER, EXPLORER, capacity=128 * GIB)
    return Plan(
        fits=True,
        problems=(),
        mode="separate",
        layout=Layout("separate", "cpu", bundles, (PhaseSlots("mix", 1, 8, slots),), sleep=False),
        phases=(phase("mix", 1, 8, [node], step_seconds=1.94),),
        weight_sync=WeightSyncPlan(1_722_368, 0.0031, {"gloo": 1}),
        saving=Saving(8e11, 9e12, 1.2e13),
        run_seconds=15.52,
        ranks=1,
        tensor_parallel={"learner": 1, "explorer": 1},
    )


def impossible_plan() -> Plan:
    """8 x 24 GB are too little for a large learner."""
    return Plan(
        fits=False,
        problems=(
            "trainer: 8 ranks need 31.2 GiB on each GPU (weights 7.6, optimizer 15.3, ...), 22.8 GiB are there",
            "give it at least 12 GPUs of 24 GB, or set trainer.lora_rank",
        ),
        alternatives=(
            Alternative("colocated, 8 trainer ranks", "colocated", False, None, "over by 8.4 GiB: trainer/optimizer"),
            Alternative("separate, 6 trainer ranks", "separate", False, None, "over by 17.1 GiB: trainer/optimizer"),
        ),
    )
