"""The search for the fastest placement that fits.

A candidate is a mode, the nodes it may use, a number of trainer ranks and the engines' tensor-parallel sizes; for each
the best split of the samplers' GPUs over explorer and learner is found per phase. Candidates are evaluated by counts
alone; only the winner is laid out (`layout`). Every number that is tried is tried in every larger cluster too, and
using less than the whole cluster is always allowed, so that more nodes never make a plan worse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.placement import costs
from s2l_ray.placement.architecture import ModelShape
from s2l_ray.placement.costs import Rates, Sampler, Sampling, StepParts
from s2l_ray.placement.fitting import EngineRole, Fit, Misfit, engine_need, fit
from s2l_ray.placement.handover import Phase, best_split
from s2l_ray.placement.handover import Split as SlotSplit
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.memory import TrainerMemory, dtype_bytes, trainer_ledger
from s2l_ray.placement.plan import Mode
from s2l_ray.placement.pools import Pool, Row, pack, pool_pairs, rank_nodes, shared_engines, sizes, slots_in
from s2l_ray.placement.workload import Split, Workload

if TYPE_CHECKING:
    from s2l_ray.config import Config

MODES: tuple[Mode, ...] = ("colocated", "separate", "mixed")
EVERY_NODE_BITS, SPLIT_BITS = 6, 4


@dataclass(frozen=True)
class Frame:
    """What is being planned."""

    config: Config
    inventory: Inventory
    work: Workload
    learner: ModelShape
    explorer: ModelShape
    cuda: bool
    """Actors run on real GPUs: not on CPUs, nor on logical GPUs."""

    @property
    def dtype_bytes(self) -> int:
        return dtype_bytes(self.config)

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """Of all phases, one after the other."""
        return tuple(split for phase in self.work.phases for split in phase.splits)

    def rates(self, pool: Pool, threads: int) -> Rates:
        return costs.rates(list(pool.specs), self.inventory.efficiency, threads=threads)

    def sampling(self, role: EngineRole, split: Split) -> Sampling:
        work = self.work
        rollouts = split.explorer if role == "explorer" else split.learner
        return Sampling(work.prompts, rollouts, work.prompt_tokens, work.response_tokens, work.max_tokens)


@dataclass(frozen=True)
class Key:
    """What is chosen before slots are split."""

    mode: Mode
    trainers: Pool
    samplers: Pool
    ranks: int
    learner_tp: int
    explorer_tp: int
    """0: no step needs the explorer."""


@dataclass(frozen=True)
class Candidate:
    """A placement that fits, by counts."""

    key: Key
    rows: tuple[Row, ...]
    """Nodes of `key.trainers` with ranks; their slots count only if the samplers' nodes are the same."""
    slot_rows: tuple[Row, ...]
    """Nodes of `key.samplers` with slots."""
    slot_gpus: int
    slots: SlotSplit
    """Slots of each kind in every phase."""
    shared: dict[EngineRole, int]
    """Engines beside trainer ranks."""
    trainer: Fit
    """A rank's device, with the engines beside it."""
    slot: dict[EngineRole, Fit]
    """Device of a slot, with an engine of this role."""
    run_seconds: float

    @property
    def gpus(self) -> int:
        """Used."""
        return self.key.ranks + self.slots.total * self.slot_gpus


@dataclass(frozen=True)
class Rejected:
    """A candidate that does not fit."""

    key: Key
    misfit: Misfit | None
    """None: not for memory."""
    reason: str = ""


class Search:
    """All candidates of one plan. Costs are remembered: most candidates share their parts."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._memory: dict[tuple, object] = {}

    def run(self) -> tuple[list[Candidate], list[Rejected]]:
        """The best candidate of every mode, tensor-parallel sizes and hand-over, and what did not fit."""
        best: dict[tuple, Candidate] = {}
        rejected: list[Rejected] = []
        for key in self._keys():
            for found in self.evaluate(key):
                if isinstance(found, Rejected):
                    rejected.append(found)
                    continue
                family = (key.mode, key.learner_tp, key.explorer_tp, found.slots.hands_over)
                if family not in best or order(found) < order(best[family]):
                    best[family] = found
        return sorted(best.values(), key=order), rejected

    # ---- what is tried ------------------------------------------------------------------------------------------

    def _keys(self) -> Iterator[Key]:
        forced = self.frame.config.placement.mode
        explores = self.frame.work.explores
        for trainers, samplers in pool_pairs(self.frame.inventory.specs):
            for mode in MODES:
                if forced not in ("auto", mode) or (mode == "colocated" and trainers is not samplers):
                    continue
                if mode == "mixed" and not explores:
                    continue
                for ranks in self._ranks(trainers, mode):
                    shared = samplers if mode == "separate" else trainers
                    for learner_tp in self.tensor_parallel("learner", shared):
                        for explorer_tp in self.tensor_parallel("explorer", samplers) if explores else (0,):
                            yield Key(mode, trainers, samplers, ranks, learner_tp, explorer_tp)

    def _ranks(self, pool: Pool, mode: Mode) -> list[int]:
        if pinned := self.frame.config.trainer.ranks:
            return [pinned] if pinned <= pool.gpus else []
        found = set(sizes(pool.gpus, SPLIT_BITS))
        if mode != "separate":
            node = pool.largest_node
            found |= {n * node for n in sizes(pool.gpus // node, EVERY_NODE_BITS)}
        return sorted(found)

    def tensor_parallel(self, role: EngineRole, pool: Pool) -> tuple[int, ...]:
        """Sizes that divide the model and stay within a node: powers of two, or what is pinned."""
        shape = getattr(self.frame, role)
        pinned = getattr(self.frame.config.engines, role).tensor_parallel
        if pinned:
            return (pinned,) if pinned <= pool.largest_node else ()
        limit = pool.largest_node if self.frame.cuda else 1
        tried = [2**n for n in range(limit.bit_length())]
        return tuple(
            n
            for n in tried
            if shape.heads % n == 0
            and shape.intermediate % n == 0
            and (shape.kv_heads % n == 0 or n % shape.kv_heads == 0)
        )

    # ---- one candidate ------------------------------------------------------------------------------------------

    def evaluate(self, key: Key) -> list[Candidate | Rejected]:
        """A key without and with hand-over, or the reason that it does not fit."""
        config = self.frame.config
        roles: list[EngineRole] = ["learner", "explorer"] if key.explorer_tp else ["learner"]
        beside = {"separate": [], "mixed": ["learner"], "colocated": roles}[key.mode]
        trainer = self._fit(key, True, tuple(beside))
        if isinstance(trainer, Misfit):
            return [Rejected(key, trainer)]
        slot_roles = [] if key.mode == "colocated" else roles
        slot: dict[EngineRole, Fit] = {}
        for role in slot_roles:
            found = self._fit(key, False, (role,))
            # In mixed mode a learner engine of its own exists only after a hand-over.
            if isinstance(found, Misfit) and not (key.mode == "mixed" and role == "learner"):
                return [Rejected(key, found)]
            if isinstance(found, Fit):
                slot[role] = found

        slot_gpus = max(key.learner_tp, key.explorer_tp)
        rank_cpus = config.trainer.cpus + sum(getattr(config.engines, role).cpus / _tp(key, role) for role in beside)
        slot_cpus = max(
            (getattr(config.engines, role).cpus * (slot_gpus // _tp(key, role)) for role in roles), default=1
        )
        rows = pack(key.trainers, key.ranks, slot_gpus, rank_cpus, slot_cpus)
        if rows is None:
            return [Rejected(key, None, f"nodes have too few CPUs for {key.ranks} ranks: each takes {rank_cpus:g}")]
        slot_rows = rows
        if key.samplers is not key.trainers:
            slot_rows = pack(key.samplers, 0, slot_gpus, rank_cpus, slot_cpus)
        shared = {role: shared_engines(rows, _tp(key, role)) for role in beside}
        if problem := self._limit(key, shared):
            return [Rejected(key, None, problem)]
        base = Candidate(
            key=key,
            rows=rows,
            slot_rows=slot_rows,
            slot_gpus=slot_gpus,
            slots=SlotSplit((0,) * len(self.frame.work.phases), 0),
            shared=shared,
            trainer=trainer,
            slot=slot,
            run_seconds=0.0,
        )
        if key.mode == "colocated":
            return [replace(base, run_seconds=self._run_seconds(base))]
        return self._split_slots(base)

    def _fit(self, key: Key, ranked: bool, roles: tuple[EngineRole, ...]) -> Fit | Misfit:
        """A device with a trainer rank or without, and engines of these roles."""
        pool = key.trainers if ranked else key.samplers
        tps = tuple(_tp(key, role) for role in roles)
        return self._remember(
            ("fit", pool, key.ranks if ranked else 0, roles, tps), lambda: self._fit_now(pool, key, ranked, roles)
        )

    def _fit_now(self, pool: Pool, key: Key, ranked: bool, roles: tuple[EngineRole, ...]) -> Fit | Misfit:
        frame = self.frame
        needs = [
            self._remember(
                ("need", role, _tp(key, role)),
                lambda role=role: engine_need(
                    getattr(frame, role), frame.config, role, _tp(key, role), cuda=frame.cuda
                ),
            )
            for role in roles
        ]
        trainer = self._trainer_memory(key.ranks) if ranked else None
        return fit(self.budget(pool), trainer, needs, sleep=frame.cuda)

    def _trainer_memory(self, ranks: int) -> TrainerMemory:
        frame = self.frame
        return self._remember(
            ("trainer", ranks), lambda: trainer_ledger(frame.learner, frame.config, ranks, cuda=frame.cuda)
        )

    def budget(self, pool: Pool) -> int:
        """Bytes of each GPU that a plan may use."""
        return int(pool.gpu_memory_bytes * (1 - self.frame.config.placement.headroom))

    def _limit(self, key: Key, shared: dict[EngineRole, int]) -> str:
        """Cut down to pinned counts; says why these ranks have too few engines beside them."""
        for role in shared:
            pinned = getattr(self.frame.config.engines, role).count
            least = 1 if key.mode == "mixed" or pinned is None else pinned
            if shared[role] < least:
                return (
                    f"only {shared[role]} {role} engines of {_tp(key, role)} GPUs fit beside {key.ranks} ranks, "
                    f"{least} needed"
                )
            shared[role] = min(shared[role], pinned or shared[role])
        return ""

    # ---- time ---------------------------------------------------------------------------------------------------

    def _split_slots(self, base: Candidate) -> list[Candidate | Rejected]:
        """The best split of the slots, without and with hand-over."""
        frame, key = self.frame, base.key
        engines, available = frame.config.engines, slots_in(base.slot_rows)
        explorers, learners = engines.explorer.count, engines.learner.count
        per = {role: base.slot_gpus // _tp(key, role) for role in base.slot}
        fixed = {
            "learner": None
            if learners is None
            else -(-max(0, learners - base.shared.get("learner", 0)) // per.get("learner", 1)),
            "explorer": None if explorers is None or not key.explorer_tp else -(-explorers // per["explorer"]),
        }
        options = self._options(key, available, fixed)
        if options is None:
            asked = ", ".join(f"{n} for {role}s" for role, n in fixed.items() if n is not None)
            return [
                Rejected(
                    key,
                    None,
                    f"{available} slots of {base.slot_gpus} GPUs are left beside {key.ranks} trainer ranks, too few"
                    + (f" ({asked} asked for)" if asked else " for the engines"),
                )
            ]
        choices, total = options
        steps = self._step_matrix(base, choices, total)
        phases, first = [], 0
        for phase in frame.work.phases:
            rows = steps[first : first + len(phase.splits)]
            weights = np.array([split.steps for split in phase.splits], dtype=float)
            seconds = (weights[:, None] * rows).sum(axis=0)
            phases.append(Phase(seconds, phase.steps, explores=phase.explorer_groups > 0))
            first += len(phase.splits)
        wait = self._first_wait(base, choices, total)
        found = []
        for hands_over in self._hand_overs(base):
            split = best_split(
                phases,
                choices,
                total,
                wait,
                hands_over=hands_over,
                forced=frame.config.placement.hand_over == "on",
                start_s=self._start_s(key),
            )
            if split is not None:
                found.append(replace(base, slots=split[0], run_seconds=split[1]))
        return found or [Rejected(key, None, "no split of the slots leaves both kinds of engine one")]

    def _hand_overs(self, base: Candidate) -> list[bool]:
        asked = self.frame.config.placement.hand_over
        phases = self.frame.work.phases
        possible = (
            len(phases) > 1 and phases[0].explorer_groups > 0 and "learner" in base.slot and "explorer" in base.slot
        )
        if asked == "off" or not possible:
            return [False]
        return [True] if asked == "on" else [False, True]

    def _options(self, key: Key, available: int, fixed: dict[str, int | None]) -> tuple[list[int], int] | None:
        """(numbers of learner slots to try while the explorer samples, and at the end all slots; all slots used)."""
        least = 1 if key.mode == "separate" else 0
        explorer = 1 if key.explorer_tp else 0
        if fixed["explorer"] is not None:
            explorer = fixed["explorer"]
        if fixed["learner"] is not None:
            least = max(least, fixed["learner"])
        if least + explorer > available:
            return None
        if fixed["learner"] is not None:
            numbers, total = [least], available if fixed["explorer"] is None else least + explorer
        elif fixed["explorer"] is not None:
            numbers, total = [available - explorer], available
        else:
            numbers, total = (
                [n for n in (0, *sizes(available, SPLIT_BITS)) if least <= n <= available - explorer],
                available,
            )
        if not key.explorer_tp:
            numbers, total = ([least], least) if fixed["learner"] is not None else ([available], available)
        return sorted({*numbers, total}), total

    def _step_matrix(self, base: Candidate, choices: list[int], total: int) -> np.ndarray:
        """Seconds of a step: [split, choice of learner slots]."""
        explore, learn, trained = self._parts(base, choices, total)
        if self.frame.work.ahead:
            return np.maximum(explore, learn + trained)
        return np.maximum(explore, learn) + trained

    def _first_wait(self, base: Candidate, choices: list[int], total: int) -> np.ndarray:
        """What the first step takes longer, for each choice: nothing was sampled ahead for it."""
        explore, learn, trained = (part[0] for part in self._parts(base, choices, total))
        if not self.frame.work.ahead:
            return np.zeros(len(choices))
        with np.errstate(invalid="ignore"):
            wait = np.maximum(explore, learn) + trained - np.maximum(explore, learn + trained)
        return np.nan_to_num(wait)  # inf - inf, where there is no engine at all

    def _parts(self, base: Candidate, choices: list[int], total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Exploring, the learner's sampling, and everything after it: [split, choice] each."""
        key, slots = base.key, np.array(choices)
        learn = self._table(base, "learner")[:, self.engines(base, "learner", slots, total)]
        if key.mode == "mixed":
            beside = np.array([self._beside(base, "learner", split) for split in self.frame.splits])[:, None]
            with np.errstate(divide="ignore"):
                learn = 1 / (1 / beside + 1 / learn) if self.frame.work.phases else learn
            learn = np.where(beside == 0, 0.0, learn)
        explore = np.zeros_like(learn)
        if key.explorer_tp:
            explore = self._table(base, "explorer")[:, self.engines(base, "explorer", slots, total)]
        update = np.array([self.update(key, base.rows, split) for split in self.frame.splits])[:, None]
        swap = np.array([self.swap(base, n) for n in choices])[None, :]
        return explore, learn, update + swap + self.sleep_wake(base)

    def engines(self, base: Candidate, role: EngineRole, learner_slots, total: int):
        """Engines of a role in the slots, when so many slots (a number or an array) are the learner's."""
        if role not in base.slot:
            return learner_slots * 0
        per = base.slot_gpus // _tp(base.key, role)
        slots = learner_slots if role == "learner" else total - learner_slots
        pinned = getattr(self.frame.config.engines, role).count
        if pinned is not None:
            mine = max(0, pinned - base.shared.get(role, 0))
            unused = -(-mine // per) * per - mine
            return np.maximum(0, slots * per - unused)
        return slots * per

    def _table(self, base: Candidate, role: EngineRole) -> np.ndarray:
        """Seconds of sampling a step: [split, engines in slots]; infinite without engines where there is work."""
        key = base.key
        most = slots_in(base.slot_rows) * (base.slot_gpus // max(1, _tp(key, role)))
        limit = key.samplers.gpus
        if role not in base.slot:
            counts = [getattr(split, role) for split in self.frame.splits]
            return np.array([[np.inf if count else 0.0] for count in counts]) * np.ones((1, most + 1))
        return self._remember(
            ("table", role, key.samplers, _tp(key, role), base.slot[role].kv[role]),
            lambda: self._table_now(base, role, limit // _tp(key, role)),
        )

    def _table_now(self, base: Candidate, role: EngineRole, most: int) -> np.ndarray:
        prompts = self.frame.work.prompts
        shares = [-(-prompts // n) for n in range(1, most + 1)]
        rows = []
        for split in self.frame.splits:
            count = getattr(split, role)
            times = {n: self.generation(base, role, split, n, shared=False) for n in set(shares)}
            rows.append([np.inf if count else 0.0, *(times[n] for n in shares)])
        return np.array(rows)

    def _beside(self, base: Candidate, role: EngineRole, split: Split) -> float:
        """Seconds in which the engines beside trainer ranks alone would sample a step."""
        engines = base.shared.get(role, 0)
        if not engines:
            return np.inf if getattr(split, role) else 0.0
        return self.generation(base, role, split, -(-self.frame.work.prompts // engines), shared=True)

    def generation(self, base: Candidate, role: EngineRole, split: Split, prompts: int, *, shared: bool) -> float:
        """Seconds of one engine with so many prompts of a step."""
        key = base.key
        pool = key.trainers if shared else key.samplers
        kv = (base.trainer if shared else base.slot[role]).kv[role]
        work = replace(self.frame.sampling(role, split), prompts=prompts)
        return self._remember(
            ("generation", role, pool, _tp(key, role), kv, prompts, work.rollouts),
            lambda: costs.generation_seconds(self.sampler(key, role, pool, kv), work, 1),
        )

    def sampler(self, key: Key, role: EngineRole, pool: Pool, kv: int) -> Sampler:
        engine = getattr(self.frame.config.engines, role)
        return Sampler(
            shape=getattr(self.frame, role),
            tensor_parallel=_tp(key, role),
            kv_cache_bytes=kv,
            max_num_seqs=engine.max_num_seqs,
            dtype_bytes=self.frame.dtype_bytes,
            rates=self._rates(pool, engine.threads),
        )

    def _rates(self, pool: Pool, threads: int) -> Rates:
        return self._remember(("rates", pool, threads), lambda: self.frame.rates(pool, threads))

    def update(self, key: Key, rows: tuple[Row, ...], split: Split) -> float:
        """Seconds of a step's optimizer steps."""
        nodes, config = rank_nodes(rows), self.frame.config
        return self._remember(
            ("update", key.trainers, key.ranks, nodes, split),
            lambda: costs.update_seconds(
                self.frame.learner,
                self.frame.work,
                split,
                ranks=key.ranks,
                nodes=nodes,
                rates=self._rates(key.trainers, config.trainer.threads),
                dtype_bytes=self.frame.dtype_bytes,
            ),
        )

    def swap(self, base: Candidate, learner_slots: int) -> float:
        """Seconds of a swap when so many slots are the learner's."""
        key, nodes = base.key, rank_nodes(base.rows)
        # Rank 0 sends, from the first node.
        far = learner_slots > 0 and (key.trainers is not key.samplers or learner_slots > base.slot_rows[0].slots)
        return self._remember(
            ("swap", key.trainers, key.ranks, nodes, far),
            lambda: costs.swap_seconds(
                self.frame.learner,
                ranks=key.ranks,
                nodes=nodes,
                far=far,
                rates=self._rates(key.trainers, self.frame.config.trainer.threads),
                dtype_bytes=self.frame.dtype_bytes,
            ),
        )

    def sleep_wake(self, base: Candidate) -> float:
        """Seconds of a step in which engines beside the ranks go to sleep and wake."""
        key = base.key
        if key.mode == "separate" or not self.frame.cuda:
            return 0.0
        explorer = None
        if key.mode == "colocated" and key.explorer_tp:
            explorer = self.sampler(key, "explorer", key.trainers, base.trainer.kv["explorer"])
        return costs.sleep_wake_seconds(explorer, self._rates(key.trainers, 1))

    def _start_s(self, key: Key) -> float:
        return self._rates(key.samplers, 1).engine_start_s

    def parts(self, base: Candidate, phase: int, split: Split) -> StepParts:
        """Of one step."""
        slots = base.slots.learner[phase]
        times = {}
        for role in ("learner", "explorer"):
            engines = int(self.engines(base, role, slots, base.slots.total))
            own = np.inf
            if engines:
                own = self.generation(base, role, split, -(-self.frame.work.prompts // engines), shared=False)
            beside = self._beside(base, role, split)
            times[role] = 0.0 if getattr(split, role) == 0 else 1 / (1 / own + 1 / beside)
        return StepParts(
            explore=times["explorer"],
            learner_generate=times["learner"],
            sleep_wake=self.sleep_wake(base),
            update=self.update(base.key, base.rows, split),
            swap=self.swap(base, slots),
        )

    def _run_seconds(self, base: Candidate) -> float:
        """Without slots: every step by itself."""
        return sum(
            split.steps * costs.step_seconds(base.key.mode, self.parts(base, number, split), ahead=False)
            for number, phase in enumerate(self.frame.work.phases)
            for split in phase.splits
        )

    def _remember(self, key: tuple, compute):
        if key not in self._memory:
            self._memory[key] = compute()
        return self._memory[key]


def order(candidate: Candidate) -> tuple:
    """Fastest first; of equals the one with fewer GPUs, then a fixed order."""
    key = candidate.key
    return (
        candidate.run_seconds,
        candidate.gpus,
        MODES.index(key.mode),
        candidate.slots.hands_over,
        key.ranks,
        key.learner_tp,
        key.explorer_tp,
        key.trainers.nodes,
        key.samplers.nodes,
    )


def _tp(key: Key, role: EngineRole) -> int:
    return key.learner_tp if role == "learner" else key.explorer_tp
