"""Placement without GPUs: every actor has a CPU bundle of its own, counts are the configuration's or 1.

Nothing is searched: actors share cores in ways that a roofline cannot rank. Times are rough; `s2l plan --calibrate` has
measured ones.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import numpy as np

from s2l_ray.config.placement_modes import SLEEPLESS
from s2l_ray.kinds import Role, Source
from s2l_ray.placement.inventory import cpus_text
from s2l_ray.placement.plan import DeviceLoad, EngineSlot, Layout, PhaseSlots, Plan, PlannedBundle, Slot, TrainerSlot
from s2l_ray.planner import costs
from s2l_ray.planner.costs import Rates, Sampler, StepParts
from s2l_ray.planner.memory import Ledger, trainer_ledger
from s2l_ray.planner.search.fitting import EngineNeed, device_ledger, engine_need
from s2l_ray.planner.search.frame import Frame
from s2l_ray.planner.search.handover import PhaseCosts, fixed_split, growing_split, late_seconds
from s2l_ray.planner.search.pools import replica_nodes
from s2l_ray.planner.search.predictions import Placement, finished_plan
from s2l_ray.planner.workload import Split

DEFAULT_KV_CACHE = 2**29


@dataclass(frozen=True)
class _Actors:
    """How many actors of each kind there are, and what each takes."""

    frame: Frame

    @property
    def ranks(self) -> int:
        """Number of trainer ranks."""
        return self.frame.config.trainer.ranks or 1

    def engines(self, role: Source) -> int:
        """Number of engines at the start of the run."""
        return (self.frame.engine(role).count or 1) if role in self.frame.roles else 0

    def tensor_parallel(self, role: Source) -> int:
        """Worker processes of an engine."""
        return self.frame.engine(role).tensor_parallel or 1

    def cpus(self, role: Role) -> float:
        """CPUs of one actor."""
        return self.frame.config.trainer.cpus if role == "trainer" else self.frame.engine(role).cpus

    @cached_property
    def memory(self) -> dict[Role, Ledger]:
        """Bytes of one actor of each kind, all of its processes together."""
        frame = self.frame
        rank = trainer_ledger(frame.learner, frame.config, self.ranks, cuda=False, transfers=frame.transfers(SLEEPLESS))
        found: dict[Role, Ledger] = {"trainer": device_ledger(rank, [], sleep=False)}
        for role in frame.roles:
            size = self.tensor_parallel(role)
            need = _need(frame, role)
            ledger = device_ledger(None, [(need, _kv_cache_bytes(frame, role))], sleep=False)
            found[role] = {item: amount * size for item, amount in ledger.items()}
        return found


def plan_cpus(frame: Frame) -> Plan:
    """The plan for a cluster whose GPUs, if any, are not used."""
    mode, actors = frame.config.placement.mode, _Actors(frame)
    if mode not in ("auto", SLEEPLESS.name):
        return Plan(
            False,
            (
                f"placement.mode={mode} needs GPUs: engines on CPUs cannot give their memory back while the trainer "
                f"works. Leave it out, or set placement.mode={SLEEPLESS.name}",
            ),
        )
    if problem := frame.config.trainer.replicas_problem(actors.ranks):
        return Plan(False, (problem,))
    bundles = _bundles(actors, handing_over=frame.config.placement.hand_over == "on")
    nodes = _nodes(bundles, frame)
    if isinstance(nodes, str):
        return Plan(False, (nodes,))
    placed = tuple(PlannedBundle(node, (), {"CPU": cpus}) for node, (_, cpus) in zip(nodes, bundles, strict=True))
    times = _Times(frame, actors, nodes)
    handed, seconds = times.best()
    phases, replicas = tuple(_phases(frame, actors, handed)), frame.config.trainer.replicas_of(actors.ranks)
    layout = Layout(SLEEPLESS.name, "cpu", placed, phases, sleep=False, replicas=replicas)
    loads = [_loads(frame, actors, layout, number) for number in range(len(layout.phases))]
    if short := _short_of_memory(loads):
        return Plan(False, (short,))
    placement = Placement(
        layout=layout,
        ranks=actors.ranks,
        tensor_parallel={role: actors.tensor_parallel(role) for role in frame.roles},
        loads=loads,
        parts=lambda number, split: times.parts(handed[number], split),
        phase_seconds=seconds,
    )
    return replace(finished_plan(frame, placement), notes=tuple(_notes(frame, handed)))


def cpu_slot(frame: Frame, role: Source, index: int, bundle: int) -> EngineSlot:
    """One engine on a CPU bundle of its own."""
    return EngineSlot(
        role,
        index,
        bundle,
        devices=(),
        share=frame.engine(role).cpus,
        kv_cache_bytes=_kv_cache_bytes(frame, role),
        transfer=frame.transfer(role, beside=False),
    )


def _need(frame: Frame, role: Source) -> EngineNeed:
    size, transfer = frame.engine(role).tensor_parallel or 1, frame.transfer(role, beside=False)
    return engine_need(frame.shape(role), frame.config, role, size, cuda=False, transfer=transfer)


def _kv_cache_bytes(frame: Frame, role: Source) -> int:
    need = _need(frame, role)
    return need.pinned or max(need.least, DEFAULT_KV_CACHE)


def _bundles(actors: _Actors, *, handing_over: bool) -> list[tuple[Role, float]]:
    """(role of the first actor there, CPUs): trainer ranks, learner engines, explorer engines."""
    explorer = actors.cpus("explorer")
    if handing_over:
        explorer = max(explorer, actors.cpus("learner"))
    counts: list[tuple[Role, float, int]] = [
        ("trainer", actors.cpus("trainer"), actors.ranks),
        ("learner", actors.cpus("learner"), actors.engines("learner")),
        ("explorer", explorer, actors.engines("explorer")),
    ]
    return [(role, cpus) for role, cpus, count in counts for _ in range(count)]


def _nodes(bundles: list[tuple[Role, float]], frame: Frame) -> list[int] | str:
    """The node of each bundle, the first with CPUs for it; or a message that says what is short."""
    free = [spec.cpus for spec in frame.inventory.specs]
    nodes = []
    for role, cpus in bundles:
        node = next((n for n, left in enumerate(free) if left + 1e-9 >= cpus), None)
        if node is None:
            asked, article = sum(amount for _, amount in bundles), "an" if role == "explorer" else "a"
            return (
                f"{len(bundles)} actors ask for {cpus_text(asked)}, and no node has {cpus:g} left for {article} "
                f"{role}: {frame.inventory.describe()}. Lower trainer.{{ranks,cpus}} or engines.*.{{count,cpus}}, or "
                "add nodes"
            )
        free[node] -= cpus
        nodes.append(node)
    return nodes


def _phases(frame: Frame, actors: _Actors, handed: tuple[int, ...]) -> list[PhaseSlots]:
    learners, explorers = actors.engines("learner"), actors.engines("explorer")
    first = actors.ranks + learners
    phases = []
    for number, phase in enumerate(frame.work.phases):
        slots: list[Slot] = [TrainerSlot(rank, rank, (), actors.cpus("trainer")) for rank in range(actors.ranks)]
        slots += [cpu_slot(frame, "learner", n, actors.ranks + n) for n in range(learners)]
        # The last explorers are handed over first, so that the others keep their numbers.
        staying = explorers - handed[number]
        slots += [cpu_slot(frame, "learner", learners + n, first + explorers - 1 - n) for n in range(handed[number])]
        slots += [cpu_slot(frame, "explorer", n, first + n) for n in range(staying)]
        phases.append(PhaseSlots(phase.name, phase.first_step, phase.last_step, tuple(slots)))
    return phases


def _loads(frame: Frame, actors: _Actors, layout: Layout, phase: int) -> tuple[DeviceLoad, ...]:
    """Host memory of every node."""
    ledgers: dict[int, Ledger] = defaultdict(dict)
    roles: dict[int, list[str]] = defaultdict(list)
    for slot in layout.phases[phase].slots:
        node = layout.bundles[slot.bundle].node
        roles[node].append(f"{slot.role}:{slot.index}" + ("" if slot.role == "trainer" else "/0"))
        for item, size in actors.memory[slot.role].items():
            ledgers[node][item] = ledgers[node].get(item, 0) + size
    return tuple(
        DeviceLoad(node, None, spec.memory_bytes, sum(ledgers[node].values()), ledgers[node], tuple(roles[node]))
        for node, spec in enumerate(frame.inventory.specs)
    )


def _short_of_memory(loads: list[tuple[DeviceLoad, ...]]) -> str:
    for load in (load for phase in loads for load in phase):
        if load.used_bytes > load.capacity_bytes:
            largest = max(load.ledger, key=load.ledger.__getitem__)
            return (
                f"node {load.node} has {load.capacity_bytes / 1e9:.1f} GB of memory, its actors need "
                f"{load.used_bytes / 1e9:.1f} GB, most of it {largest} ({load.ledger[largest] / 1e9:.1f} GB): lower "
                "engines.*.count, engines.*.kv_cache_gb or trainer.micro_batch_tokens, or add nodes"
            )
    return ""


def _notes(frame: Frame, handed: tuple[int, ...]) -> list[str]:
    notes = frame.assumptions
    for number in range(1, len(handed)):
        if grown := handed[number] - handed[number - 1]:
            step = frame.work.phases[number].first_step - 1
            notes.append(f"after step {step} {grown} explorer bundles become learner engines")
    if frame.config.placement.hand_over == "auto" and len(handed) > 1 and frame.work.explores:
        notes.append("no hand-over on CPUs unless placement.hand_over=on: an explorer that waits takes no core")
    return notes


class _Times:
    """Seconds of a step with the actors on their nodes."""

    def __init__(self, frame: Frame, actors: _Actors, nodes: list[int]) -> None:
        self._frame, self._actors = frame, actors
        self._specs = [frame.inventory.specs[node] for node in dict.fromkeys(nodes)]
        # Nodes' figures may be of a GPU that is not used here.
        self._specs = [spec if not spec.real_gpus else spec.without_gpus() for spec in self._specs]
        on_nodes = [len(list(ranks)) for _, ranks in groupby(nodes[: actors.ranks])]
        self._rank_nodes, self._replicas = len(on_nodes), frame.config.trainer.replicas_of(actors.ranks)
        self._replica_nodes = replica_nodes(on_nodes, self._replicas)
        self._far = len(set(nodes)) > 1

    def _rates(self, threads: int) -> Rates:
        return costs.rates(self._specs, self._frame.inventory.efficiency, float32=self._frame.float32, threads=threads)

    def _sampling(self, role: Source, engines: int, rollouts: int) -> float:
        if rollouts == 0:
            return 0.0
        if engines == 0:
            return float("inf")
        frame, actors = self._frame, self._actors
        engine = frame.engine(role)
        sampler = Sampler(
            shape=frame.shape(role),
            tensor_parallel=actors.tensor_parallel(role),
            kv_cache_bytes=_kv_cache_bytes(frame, role),
            max_num_seqs=engine.max_num_seqs,
            dtype_bytes=frame.dtype_bytes,
            rates=self._rates(engine.threads),
        )
        return costs.generation_seconds(sampler, frame.sampling(rollouts), engines)

    def parts(self, handed: int, split: Split) -> StepParts[float]:
        """The parts of a step with this many explorer bundles handed over."""
        frame, actors = self._frame, self._actors
        rates = self._rates(frame.config.trainer.threads_on(cuda=False))
        return StepParts(
            explore=self._sampling("explorer", actors.engines("explorer") - handed, frame.work.explored(split)),
            learner_generate=self._sampling("learner", actors.engines("learner") + handed, split.learner),
            sleep_wake=0.0,
            update=costs.update_seconds(
                frame.learner,
                frame.work,
                split,
                ranks=actors.ranks,
                nodes=self._rank_nodes,
                replicas=self._replicas,
                replica_nodes=self._replica_nodes,
                rates=rates,
                dtype_bytes=frame.dtype_bytes,
            ),
            weight_sync=costs.weight_sync_seconds(
                frame.learner,
                ranks=actors.ranks // self._replicas,
                nodes=self._replica_nodes,
                far=self._far,
                rates=rates,
                dtype_bytes=frame.dtype_bytes,
            ),
        )

    def best(self) -> tuple[tuple[int, ...], list[float]]:
        """(explorer bundles handed over, seconds) of every phase."""
        frame, explorers = self._frame, self._actors.engines("explorer")
        choices, how = np.arange(explorers + 1), {"ahead": frame.work.ahead, "stale": frame.work.stale}
        phases = []
        for phase in frame.work.phases:
            rows = [
                [split.steps * costs.step_seconds(SLEEPLESS, self.parts(int(n), split), **how) for n in choices]
                for split in phase.splits
            ]
            phases.append(PhaseCosts(np.array(rows).sum(axis=0), phase.steps, phase.explorer_groups > 0))
        first = frame.work.phases[0].splits[0]
        wait = np.array([costs.first_step_wait(SLEEPLESS, self.parts(int(n), first), **how) for n in choices])
        start_s = frame.inventory.efficiency.engine_start_s
        if frame.config.placement.hand_over == "on" and explorers:
            handed, _ = growing_split(phases, choices, wait, total=explorers, forced=True, start_s=start_s)
        else:
            handed, _ = fixed_split([replace(p, seconds=p.seconds[:1]) for p in phases], choices[:1], wait[:1])
        seconds = [float(phase.seconds[n]) for phase, n in zip(phases, handed, strict=True)]
        seconds[0] += float(wait[handed[0]])
        for number in range(1, len(handed)):
            if handed[number] != handed[number - 1]:
                seconds[number] += float(late_seconds(phases[number], start_s)[handed[number - 1], handed[number]])
        return handed, seconds
