"""From counts to bundles and slots: which GPU of which node holds what in every phase."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from s2l_ray.kinds import Source
from s2l_ray.placement.plan import EngineSlot, Layout, PhaseSlots, PlannedBundle, Slot, TrainerSlot
from s2l_ray.planner.search.candidates import Candidate
from s2l_ray.planner.search.frame import Frame


def build_layout(candidate: Candidate, frame: Frame) -> Layout:
    """Lay a candidate out.

    The GPUs of a node that hold trainer ranks are one bundle, so that ranks are packed and the engines beside them stay
    on the node. Every engine bundle is large enough for either kind of engine. The first engine bundles are the
    learner's; the explorer hands its first ones over.
    """
    rank_bundles, engine_bundles = _bundles(candidate)
    bundles = rank_bundles + engine_bundles
    ranks = _rank_slots(candidate, rank_bundles)
    beside = _slots_beside_ranks(candidate, frame, rank_bundles)
    phases = []
    for number, phase in enumerate(frame.work.phases):
        engines = [*beside]
        for position in range(candidate.bundles.total):
            role: Source = "learner" if position < candidate.bundles.learner[number] else "explorer"
            engines += _engine_slots(candidate, frame, role, position, len(rank_bundles) + position)
        engines.sort(key=lambda slot: (("learner", "explorer").index(slot.role), slot.index))
        phases.append(PhaseSlots(phase.name, phase.first_step, phase.last_step, (*ranks, *engines)))
    if candidate.key.trainers.together > 1:
        bundles, phases = _on_real_nodes(candidate, bundles, phases)
    return Layout(
        mode=candidate.key.mode.name,
        device="gpu",
        bundles=tuple(_with_cpus(bundles, phases, frame)),
        phases=tuple(phases),
        sleep=bool(candidate.key.mode.sleeping),
        recomputed_layers=candidate.recomputed,
        replicas=candidate.key.replicas,
    )


def _bundles(candidate: Candidate) -> tuple[list[PlannedBundle], list[PlannedBundle]]:
    """Bundles with ranks, in the order of ranks; engine bundles, those nearest to the ranks first."""
    key = candidate.key
    ranked: list[PlannedBundle] = []
    nodes = iter(key.trainers.nodes[:: key.trainers.together])
    for row in candidate.rows:
        on_nodes = [next(nodes) for _ in range(row.count)]
        if row.ranks:
            ranked += [PlannedBundle(node, tuple(range(row.ranks)), {}) for node in on_nodes]
    engines: list[PlannedBundle] = []
    nodes = iter(key.samplers.nodes[:: key.samplers.together])
    for row in candidate.sampler_rows:
        for node in [next(nodes) for _ in range(row.count)]:
            for position in range(row.bundles):
                if len(engines) == candidate.bundles.total:
                    return ranked, engines
                first = row.ranks + position * key.bundle_gpus
                engines.append(PlannedBundle(node, tuple(range(first, first + key.bundle_gpus)), {}))
    return ranked, engines


def _rank_slots(candidate: Candidate, bundles: list[PlannedBundle]) -> list[TrainerSlot]:
    """Trainer ranks; the same in every phase."""
    places = [(bundle, device) for bundle, planned in enumerate(bundles) for device in range(len(planned.gpus))]
    share = 0.5 if candidate.key.beside else 1.0
    return [TrainerSlot(rank, bundle, (device,), share) for rank, (bundle, device) in enumerate(places)]


def _slots_beside_ranks(candidate: Candidate, frame: Frame, bundles: list[PlannedBundle]) -> list[EngineSlot]:
    """Engines on the GPUs of trainer ranks; the same in every phase."""
    key = candidate.key
    slots = []
    for role in key.beside:
        size = key.tp(role)
        places = [
            (bundle, tuple(range(first, first + size)))
            for bundle, planned in enumerate(bundles)
            for first in range(0, len(planned.gpus) - size + 1, size)
        ]
        share, kv = 0.5 / len(key.beside), candidate.trainer.kv[role]
        transfer = frame.transfer(role, beside=True)
        slots += [
            EngineSlot(role, number, bundle, devices, share, kv, transfer)
            for number, (bundle, devices) in enumerate(places[: candidate.shared[role]])
        ]
    return slots


def _engine_slots(candidate: Candidate, frame: Frame, role: Source, position: int, bundle: int) -> list[EngineSlot]:
    """The engines of one engine bundle while it is this role's.

    Args:
        position: of the bundle among the engine bundles.
        bundle: its position in the layout.
    """
    key = candidate.key
    per, size = key.engines_per_bundle(role), key.tp(role)
    asked, shared = frame.engine(role).count, candidate.shared.get(role, 0)
    transfer = frame.transfer(role, beside=False)
    # Explorers count from the last bundle, so that the ones that stay longest have the lowest numbers.
    place = position if role == "learner" else candidate.bundles.total - 1 - position
    numbers = list(range(place * per, (place + 1) * per))
    if asked is not None:
        own = max(0, asked - shared)
        whole = -(-own // per)  # bundles with the engines asked for; later ones are handed over
        numbers = [n for n in numbers if n < own] if place < whole else [n - whole * per + own for n in numbers]
    return [
        EngineSlot(
            role,
            shared + number,
            bundle,
            devices=tuple(range(nth * size, (nth + 1) * size)),
            share=1.0,
            kv_cache_bytes=candidate.bundle_fit[role].kv[role],
            transfer=transfer,
        )
        for nth, number in enumerate(numbers)
    ]


def _on_real_nodes(
    candidate: Candidate, bundles: list[PlannedBundle], phases: list[PhaseSlots]
) -> tuple[list[PlannedBundle], list[PhaseSlots]]:
    """Cut bundles that cross nodes into one per node, and their engines into one slot for each.

    Such a layout can be shown, not carried out.
    """
    pool = candidate.key.trainers
    size = pool.largest_node // pool.together
    cut: list[PlannedBundle] = []
    place: dict[tuple[int, int], tuple[int, int]] = {}
    for number, bundle in enumerate(bundles):
        first = pool.nodes.index(bundle.node)
        on_node: dict[int, list[int]] = defaultdict(list)
        for device, gpu in enumerate(bundle.gpus):
            node = pool.nodes[first + gpu // size]
            place[number, device] = (len(cut) + len(on_node) - (node in on_node), len(on_node[node]))
            on_node[node].append(gpu % size)
        cut += [PlannedBundle(node, tuple(gpus), {}) for node, gpus in on_node.items()]
    found = []
    for phase in phases:
        slots: list[Slot] = []
        for slot in phase.slots:
            parts: dict[int, list[int]] = defaultdict(list)
            for device in slot.devices:
                part, position = place[slot.bundle, device]
                parts[part].append(position)
            slots += [replace(slot, bundle=part, devices=tuple(devices)) for part, devices in parts.items()]
        found.append(replace(phase, slots=tuple(slots)))
    return cut, found


def _with_cpus(bundles: list[PlannedBundle], phases: list[PhaseSlots], frame: Frame) -> list[PlannedBundle]:
    """Resources: the GPUs, and the CPUs of the actors of the busiest phase."""
    trainer = frame.config.trainer.cpus
    most: dict[int, float] = defaultdict(float)
    for phase in phases:
        cpus: dict[int, float] = defaultdict(float)
        for slot in phase.slots:
            cpus[slot.bundle] += trainer if slot.role == "trainer" else frame.engine(slot.role).cpus
        for number, amount in cpus.items():
            most[number] = max(most[number], amount)
    return [
        replace(bundle, resources={"GPU": float(len(bundle.gpus)), "CPU": round(most[number], 6)})
        for number, bundle in enumerate(bundles)
    ]
