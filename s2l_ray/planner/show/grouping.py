"""Groups of what is alike in a plan: GPUs with the same memory ledger, nodes with the same actors.

Devices of a CPU plan are whole nodes (`DeviceLoad.gpu` is None); they are grouped in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from s2l_ray.kinds import Source
from s2l_ray.placement.plan import DeviceLoad, EngineSlot, Layout, PhasePlan, PlannedBundle

ROLES = ("trainer", "learner", "explorer")
MemoryKey: TypeAlias = tuple[int, tuple[tuple[str, int], ...]]
"""Capacity and ledger of a device; equal for devices of one memory class."""
DeviceKind: TypeAlias = tuple[int | None, tuple[tuple[str, int], ...], MemoryKey]
"""GPU number, roles of its actors and which of them are one actor, memory; equal for devices that look the same."""
RUNS = 6
"""Runs of numbers that are listed one by one."""


@dataclass(frozen=True)
class Occupant:
    """One entry of `DeviceLoad.roles`, taken apart."""

    role: str
    index: int
    """Trainer rank or engine."""


@dataclass(frozen=True)
class MemoryClass:
    """Devices whose memory is the same, in whatever phase."""

    letter: str
    """A, B, ... in the order of their first appearance."""
    load: DeviceLoad
    """One of them."""


@dataclass(frozen=True)
class AlikeNodes:
    """Nodes that hold the same kinds of actors on the same devices, in one phase."""

    nodes: tuple[int, ...]
    loads: tuple[DeviceLoad, ...]
    """The devices of the first of the nodes."""
    occupants: dict[str, tuple[int, ...]]
    """Role -> ranks or engines on all of the nodes, ascending."""
    devices: dict[str, int]
    """Role -> devices of its largest actor here, those on other nodes included."""


@dataclass(frozen=True)
class Block:
    """One actor on neighbouring devices of a node."""

    index: int
    first: int
    """Position of its first device on the node."""
    devices: int


@dataclass(frozen=True)
class HandOver:
    """What changes between two phases: engines that end, engines that begin, and the bundles concerned."""

    step: int
    """The first step after it."""
    ends: tuple[EngineSlot, ...]
    begins: tuple[EngineSlot, ...]

    @property
    def bundles(self) -> tuple[int, ...]:
        """Bundles that are handed over, ascending."""
        return tuple(sorted({slot.bundle for slot in (*self.ends, *self.begins)}))


def occupant(role: str) -> Occupant:
    """`trainer:3` or `learner:1/0` (engine 1, tensor-parallel rank 0)."""
    kind, _, number = role.partition(":")
    return Occupant(kind, int(number.partition("/")[0]))


def memory_classes(phases: Iterable[PhasePlan]) -> dict[MemoryKey, MemoryClass]:
    """Key (see `memory_key`) -> class, over all phases; devices with nothing on them belong to none."""
    classes: dict[MemoryKey, MemoryClass] = {}
    for phase in phases:
        for load in phase.gpus:
            key = memory_key(load)
            if load.ledger and key not in classes:
                classes[key] = MemoryClass(_letter(len(classes)), load)
    return classes


def memory_key(load: DeviceLoad) -> MemoryKey:
    """Equal for devices of one memory class."""
    return load.capacity_bytes, tuple(load.ledger.items())


def node_groups(loads: Sequence[DeviceLoad]) -> list[AlikeNodes]:
    """The nodes of one phase, alike ones together, in the order of their first node."""
    by_node: dict[int, list[DeviceLoad]] = {}
    for load in loads:
        by_node.setdefault(load.node, []).append(load)
    by_kind: dict[tuple[DeviceKind, ...], list[int]] = {}
    for node, devices in by_node.items():
        by_kind.setdefault(_kind_of_node(devices), []).append(node)
    sizes = Counter(occupant(role) for load in loads for role in load.roles)
    return [_alike_nodes(nodes, by_node, sizes) for nodes in by_kind.values()]


def blocks(loads: Sequence[DeviceLoad], role: str) -> list[Block]:
    """The actors of `role` on a node's devices; a tensor-parallel group on neighbouring devices is one block."""
    found: list[Block] = []
    for position, load in enumerate(loads):
        for index in (o.index for o in map(occupant, load.roles) if o.role == role):
            last = found[-1] if found else None
            if last and last.index == index and last.first + last.devices == position:
                found[-1] = Block(index, last.first, last.devices + 1)
            else:
                found.append(Block(index, position, 1))
    return found


def hand_overs(layout: Layout) -> list[HandOver]:
    """Every change of engine slots between consecutive phases."""
    changes = []
    for before, after in zip(layout.phases, layout.phases[1:], strict=False):
        then, now = _by_place(before.engines), _by_place(after.engines)
        ends = tuple(slot for place, slot in then.items() if place not in now)
        begins = tuple(slot for place, slot in now.items() if place not in then)
        if ends or begins:
            changes.append(HandOver(after.first_step, ends, begins))
    return changes


def bundles_of(layout: Layout, numbers: Iterable[int]) -> list[PlannedBundle]:
    """The bundles with these numbers."""
    return [layout.bundles[number] for number in numbers]


def ranges(numbers: Iterable[int]) -> str:
    """0-2, 5, 7-9; of more than RUNS runs the first and the last."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ", ".join(texts if len(texts) <= RUNS else [*texts[: RUNS - 2], "...", texts[-1]])


def _kind_of_node(devices: list[DeviceLoad]) -> tuple[DeviceKind, ...]:
    """Equal for nodes that look the same: numbers of ranks and engines do not matter, who shares an engine does."""
    seen: dict[Occupant, int] = {}
    kinds = []
    for load in devices:
        occupants = [occupant(role) for role in load.roles]
        names = tuple((o.role, seen.setdefault(o, len(seen))) for o in occupants)
        kinds.append((load.gpu, names, memory_key(load)))
    return tuple(kinds)


def _alike_nodes(nodes: list[int], by_node: dict[int, list[DeviceLoad]], sizes: Counter[Occupant]) -> AlikeNodes:
    found = {occupant(role) for node in nodes for load in by_node[node] for role in load.roles}
    occupants, devices = {}, {}
    for role in ROLES:
        own = [one for one in found if one.role == role]
        if own:
            occupants[role] = tuple(sorted(one.index for one in own))
            devices[role] = max(sizes[one] for one in own)
    return AlikeNodes(tuple(nodes), tuple(by_node[nodes[0]]), occupants, devices)


def _by_place(slots: Iterable[EngineSlot]) -> dict[tuple[Source, int, int, tuple[int, ...]], EngineSlot]:
    return {(slot.role, slot.index, slot.bundle, slot.devices): slot for slot in slots}


def _letter(number: int) -> str:
    """A to Z, then AA, AB, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
