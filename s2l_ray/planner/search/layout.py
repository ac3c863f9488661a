"""From counts to bundles and seats: which GPU of which node holds what in every phase."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from s2l_ray.kinds import Role, Transfer
from s2l_ray.placement.plan import Layout, PhaseSeats, PlannedBundle, Seat
from s2l_ray.planner.search.candidates import Candidate, Frame


def build_layout(candidate: Candidate, frame: Frame) -> Layout:
    """Lay a candidate out.

    Every node's trainer GPUs are one bundle, so that ranks are packed and the engines beside them stay on the node;
    every slot is one bundle, so that either kind of engine fits. The first slots are the learner's; the explorer hands
    its first slots over.
    """
    rank_bundles, slot_bundles = _bundles(candidate)
    bundles = rank_bundles + slot_bundles
    seated = _rank_seats(candidate, frame, rank_bundles)
    shared_learners = candidate.shared.get("learner", 0)
    phases = []
    for number, phase in enumerate(frame.work.phases):
        seats = [*seated]
        for slot in range(candidate.slots.total):
            role: Role = "learner" if slot < candidate.slots.learner[number] else "explorer"
            first = shared_learners if role == "learner" else 0
            seats += _slot_seats(candidate, frame, role, slot, len(rank_bundles) + slot, first)
        seats.sort(key=lambda seat: (("trainer", "learner", "explorer").index(seat.role), seat.index))
        phases.append(PhaseSeats(phase.name, phase.first_step, phase.last_step, tuple(seats)))
    if candidate.key.trainers.together > 1:
        bundles, phases = _on_real_nodes(candidate, bundles, phases)
    return Layout(
        mode=candidate.key.mode,
        device="gpu",
        bundles=tuple(_with_cpus(bundles, phases, frame)),
        phases=tuple(phases),
        sleep=candidate.key.mode != "separate",
    )


def _bundles(candidate: Candidate) -> tuple[list[PlannedBundle], list[PlannedBundle]]:
    """Bundles with ranks, in the order of ranks; bundles of slots, those nearest to the ranks first."""
    key = candidate.key
    ranked, slots = [], []
    nodes = iter(key.trainers.nodes[:: key.trainers.together])
    for row in candidate.rows:
        for node in [next(nodes) for _ in range(row.count)]:
            if row.ranks:
                ranked.append(PlannedBundle(node, tuple(range(row.ranks)), {}))
    nodes = iter(key.samplers.nodes[:: key.samplers.together])
    for row in candidate.slot_rows:
        for node in [next(nodes) for _ in range(row.count)]:
            for slot in range(row.slots):
                if len(slots) == candidate.slots.total:
                    return ranked, slots
                first = row.ranks + slot * key.slot_gpus
                slots.append(PlannedBundle(node, tuple(range(first, first + key.slot_gpus)), {}))
    return ranked, slots


def _rank_seats(candidate: Candidate, frame: Frame, bundles: list[PlannedBundle]) -> list[Seat]:
    """Trainer ranks and the engines beside them; the same in every phase."""
    key = candidate.key
    beside = key.beside
    seats = []
    seated: dict[str, int] = defaultdict(int)
    for number, bundle in enumerate(bundles):
        for device in range(len(bundle.gpus)):
            share = 0.5 if beside else 1.0
            seats.append(Seat("trainer", seated["trainer"], number, (device,), share))
            seated["trainer"] += 1
        for role in beside:
            size = key.tp(role)
            for first in range(0, len(bundle.gpus) - size + 1, size):
                if seated[role] == candidate.shared[role]:
                    break
                seats.append(
                    Seat(
                        role,
                        seated[role],
                        number,
                        tuple(range(first, first + size)),
                        0.5 / len(beside),
                        kv_cache_bytes=candidate.trainer.kv[role],
                        transfer=("ipc" if frame.cuda else "gloo") if role == "learner" else None,
                    )
                )
                seated[role] += 1
    return seats


def _slot_seats(candidate: Candidate, frame: Frame, role: Role, slot: int, bundle: int, first_index: int) -> list[Seat]:
    """The engines of one slot while it is this role's."""
    key = candidate.key
    per, size = key.per_slot(role), key.tp(role)
    asked = frame.engine(role).count
    transfer: Transfer | None = ("nccl" if frame.cuda else "gloo") if role == "learner" else None
    # Explorers count from the last slot, so that the ones that stay longest have the lowest numbers.
    place = slot if role == "learner" else candidate.slots.total - 1 - slot
    numbers = range(place * per, (place + 1) * per)
    if asked is not None:
        own = max(0, asked - candidate.shared.get(role, 0))
        whole = -(-own // per)  # slots with the engines asked for; later ones are handed over
        numbers = [n for n in numbers if n < own] if place < whole else [n - whole * per + own for n in numbers]
    return [
        Seat(
            role,
            first_index + number,
            bundle,
            tuple(range(position * size, (position + 1) * size)),
            1.0,
            kv_cache_bytes=candidate.slot[role].kv[role],
            transfer=transfer,
        )
        for position, number in enumerate(numbers)
    ]


def _on_real_nodes(
    candidate: Candidate, bundles: list[PlannedBundle], phases: list[PhaseSeats]
) -> tuple[list[PlannedBundle], list[PhaseSeats]]:
    """Bundles that cross nodes cut into one per node, and their engines into one seat for each: such a layout can be
    shown, not carried out.
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
        seats = []
        for seat in phase.seats:
            parts: dict[int, list[int]] = defaultdict(list)
            for device in seat.devices:
                bundle, position = place[seat.bundle, device]
                parts[bundle].append(position)
            seats += [replace(seat, bundle=bundle, devices=tuple(devices)) for bundle, devices in parts.items()]
        found.append(replace(phase, seats=tuple(seats)))
    return cut, found


def _with_cpus(bundles: list[PlannedBundle], phases: list[PhaseSeats], frame: Frame) -> list[PlannedBundle]:
    """Resources: the GPUs, and the CPUs of the actors of the busiest phase."""
    trainer = frame.config.trainer.cpus
    most: dict[int, float] = defaultdict(float)
    for phase in phases:
        cpus: dict[int, float] = defaultdict(float)
        for seat in phase.seats:
            cpus[seat.bundle] += trainer if seat.role == "trainer" else frame.engine(seat.role).cpus
        for bundle, amount in cpus.items():
            most[bundle] = max(most[bundle], amount)
    return [
        replace(bundle, resources={"GPU": float(len(bundle.gpus)), "CPU": round(most[number], 6)})
        for number, bundle in enumerate(bundles)
    ]
