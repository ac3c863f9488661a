"""Every placement by counts: which fit, and how fast each family's best one is.

A candidate is a mode, the nodes it may use, a number of trainer ranks and the engines' tensor-parallel sizes; for each
the best split of the samplers' GPUs over explorer and learner is found per phase. Candidates are evaluated by counts
alone; only the winner is laid out. Every number that is tried is tried in every larger cluster too, and using less than
the whole cluster is always allowed, so that more nodes never make a plan worse.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from s2l_ray.config.placement_modes import PlacementMode
from s2l_ray.kinds import Source
from s2l_ray.placement.recomputation import with_recomputed_layers, with_replicas
from s2l_ray.planner.costs import FloatArray, IntArray
from s2l_ray.planner.memory import TrainerMemory, trainer_ledger
from s2l_ray.planner.search.candidates import MODES, Candidate, CandidateKey, Family, Rejected
from s2l_ray.planner.search.fitting import EngineNeed, Fit, Misfit, engine_need, fit, tensor_parallel_sizes
from s2l_ray.planner.search.frame import Frame
from s2l_ray.planner.search.handover import BundleSplit, PhaseCosts, fixed_split, growing_split
from s2l_ray.planner.search.pools import (
    NodePool,
    bundles_in,
    pack,
    pool_pairs,
    rank_nodes,
    replica_nodes,
    shared_engines,
    sizes,
)
from s2l_ray.planner.search.timing import Cache, Timing

NODE_BITS, SPLIT_BITS = 5, 3
"""Leading binary digits of the numbers that are tried: of nodes for a colocated run, of ranks and bundles elsewhere."""


@dataclass
class Found:
    """The result of a search."""

    best: dict[Family, Candidate] = field(default_factory=dict)
    """The fastest candidate of each family."""
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def ordered(self) -> list[Candidate]:
        """Best first."""
        return sorted(self.best.values(), key=Candidate.order)

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate if it is the fastest of its family so far."""
        known = self.best.get(candidate.family)
        if known is None or candidate.order() < known.order():
            self.best[candidate.family] = candidate


class Search:
    """All candidates of one plan."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.timing = Timing(frame)
        self._cache = Cache()
        self._found = Found()

    def run(self) -> Found:
        """The best candidate of every mode, pair of tensor-parallel sizes and with or without hand-over."""
        for key in self._keys():
            base = self.fitted(key)
            if isinstance(base, Rejected):
                self._found.rejected.append(base)
            else:
                self._split_bundles(base)
        return self._found

    # ---- what is tried -----------------------------------------------------------------------------------------

    def _keys(self) -> Iterator[CandidateKey]:
        forced, explores = self.frame.config.placement.mode, self.frame.work.explores
        across = self.frame.config.placement.tensor_parallel_across_nodes
        for trainers, samplers in pool_pairs(self.frame.inventory.specs, across_nodes=across):
            for mode in MODES:
                if forced not in ("auto", mode.name) or (not mode.has_engine_gpus and trainers is not samplers):
                    continue
                if mode.needs_explorer and not explores:
                    continue
                if mode.learner_sleeps and self.frame.work.stale:
                    continue  # what sleeps while the trainer works cannot sample then
                learner_tps = self.tensor_parallel("learner", trainers if mode.learner_sleeps else samplers)
                explorer_tps = self.tensor_parallel("explorer", samplers) if explores else (0,)
                for ranks in self.ranks(trainers, mode):
                    for learner_tp in learner_tps:
                        for explorer_tp in explorer_tps:
                            for replicas in self.replicas(trainers, ranks):
                                yield CandidateKey(mode, trainers, samplers, ranks, learner_tp, explorer_tp, replicas)

    def ranks(self, pool: NodePool, mode: PlacementMode) -> list[int]:
        """Numbers of trainer ranks to try: trainer.ranks if given.

        Without GPUs for engines alone: parts of a node and whole nodes. Otherwise no more ranks than have work in a
        mini-batch, unless they fit only when there are more.
        """
        if pinned := self.frame.config.trainer.ranks:
            return [pinned] if pinned <= pool.gpus else []
        if not mode.has_engine_gpus:
            node = pool.largest_node
            # All GPUs too, which are no whole nodes where nodes have unequally many.
            return sorted({*range(1, node), *(n * node for n in sizes(pool.gpus // node, NODE_BITS)), pool.gpus})
        found = []
        for ranks in sizes(pool.gpus, SPLIT_BITS):
            found.append(ranks)
            if ranks >= self.frame.work.mini_batch_prompts and self._rank_fits(mode, pool, ranks):
                break
        return found

    def replicas(self, pool: NodePool, ranks: int) -> list[int]:
        """Numbers of replicas to try: trainer.replicas if it divides the ranks; with auto 1, and one per full node."""
        trainer = self.frame.config.trainer
        if trainer.replicas != "auto":
            return [] if trainer.replicas_problem(ranks) else [trainer.replicas]
        full, rest = divmod(ranks, pool.largest_node)
        return [1, full] if full > 1 and not rest else [1]

    def _rank_fits(self, mode: PlacementMode, pool: NodePool, ranks: int) -> bool:
        return isinstance(self.device(CandidateKey(mode, pool, pool, ranks, 1, 0), (), ranked=True), Fit)

    def tensor_parallel(self, role: Source, pool: NodePool) -> tuple[int, ...]:
        """Sizes that divide the model and stay within a node: powers of two, or what is pinned."""
        shape, pinned = self.frame.shape(role), self.frame.engine(role).tensor_parallel
        if pinned:
            return (pinned,) if pinned <= pool.largest_node else ()
        return tensor_parallel_sizes(shape, pool.largest_node if self.frame.cuda else 1)

    # ---- does it fit -------------------------------------------------------------------------------------------

    def fitted(self, key: CandidateKey) -> Candidate | Rejected:
        """The candidate before its bundles are split, or why it does not fit."""
        config, frame = self.frame.config, self.frame
        trainer, recomputed = self.ranked(key)
        if isinstance(trainer, Misfit):
            return Rejected(key, trainer)
        bundle_fit: dict[Source, Fit] = {}
        for role in frame.roles if key.mode.has_engine_gpus else ():
            found = self.device(key, (role,), ranked=False)
            if isinstance(found, Fit):
                bundle_fit[role] = found
            elif role not in key.mode.sleeping:  # one that has a place beside the ranks may do without
                return Rejected(key, found)
        rank_cpus = config.trainer.cpus + sum(frame.engine(role).cpus / key.tp(role) for role in key.beside)
        bundle_cpus = max(frame.engine(role).cpus * key.engines_per_bundle(role) for role in frame.roles)
        rows = pack(key.trainers, key.ranks, key.bundle_gpus, rank_cpus, bundle_cpus)
        if rows is None:
            return Rejected(key, None, f"the nodes' CPUs do not suffice for {key.ranks} ranks: {rank_cpus:g} each")
        if reason := self._host_memory(key, max(row.ranks for row in rows)):
            return Rejected(key, None, reason)
        sampler_rows = rows
        if key.samplers is not key.trainers:
            sampler_rows = pack(key.samplers, 0, key.bundle_gpus, rank_cpus, bundle_cpus) or ()
        shared = {role: shared_engines(rows, key.tp(role)) for role in key.beside}
        for role, places in shared.items():
            pinned = frame.engine(role).count
            least = 1 if key.mode.has_engine_gpus or pinned is None else pinned
            if places < least:
                reason = f"beside {key.ranks} ranks there is room for {places} {role} engines of {_gpus(key.tp(role))}"
                return Rejected(key, None, f"{reason}; {least} needed")
            shared[role] = min(places, pinned or places)
        return Candidate(
            key=key,
            rows=rows,
            sampler_rows=sampler_rows,
            nodes=rank_nodes(rows),
            replica_nodes=replica_nodes(
                [row.ranks for row in rows if row.ranks for _ in range(row.count)], key.replicas
            ),
            available=bundles_in(sampler_rows),
            shared=shared,
            trainer=trainer,
            recomputed=recomputed,
            bundle_fit=bundle_fit,
            bundles=BundleSplit((0,) * len(frame.work.phases), 0),
            run_seconds=0.0,
        )

    def _host_memory(self, key: CandidateKey, ranks: int) -> str:
        """Why a node cannot hold what this many ranks, and explorers that sleep beside them, off-load; empty if it can.

        An explorer that sleeps keeps its weights in pinned host memory (vLLM's level 1; device_allocator/cumem.py).
        """
        offloaded = ranks * sum(self.trainer_memory(key).host.values())
        asleep = 0
        if self.frame.cuda and "explorer" in key.beside:
            asleep = ranks * self.need("explorer", key.tp("explorer"), beside=True).ledger["weights"]
        has = min(spec.memory_bytes for spec in key.trainers.specs)
        if offloaded + asleep <= has:
            return ""
        parts = [f"{ranks} trainer ranks off-load {offloaded / 1e9:.0f} GB"] if offloaded else []
        parts += [f"explorers that sleep beside them keep {asleep / 1e9:.0f} GB of weights"] if asleep else []
        return f"{' and '.join(parts)} in their node's memory, which has {has / 1e9:.0f}"

    def ranked(self, key: CandidateKey) -> tuple[Fit | Misfit, int | None]:
        """A rank's device with the engines beside it; and, if the plan is to say it, how many layers are recomputed."""
        roles = key.beside
        return self._cache.get(
            ("ranked", key.mode, key.trainers, key.ranks, key.replicas, *((role, key.tp(role)) for role in roles)),
            lambda: self._least_recomputed(key, roles),
        )

    def _least_recomputed(self, key: CandidateKey, roles: tuple[Source, ...]) -> tuple[Fit | Misfit, int | None]:
        """As few layers as fit. Engines beside the rank have the same KV caches: they sleep during an update."""
        every = self.device(key, roles, ranked=True)
        trainer = self.frame.config.trainer
        chosen = trainer.gradient_checkpointing != "auto" or trainer.recomputed_layers is not None
        if chosen or not self.frame.cuda or isinstance(every, Misfit):
            return every, None
        layers = self.frame.learner.layers

        def found(count: int) -> Fit | Misfit:
            return self.device(key, roles, ranked=True, recomputed=count)

        least = bisect_left(range(layers), True, key=lambda count: isinstance(found(count), Fit))
        return found(least), least

    def device(
        self, key: CandidateKey, roles: tuple[Source, ...], *, ranked: bool, recomputed: int | None = None
    ) -> Fit | Misfit:
        """A device with engines of these roles, and with a trainer rank or without."""
        pool, ranks = (key.trainers, key.ranks) if ranked else (key.samplers, 0)
        return self._cache.get(
            ("device", key.mode, pool, ranks, key.replicas, recomputed, *((role, key.tp(role)) for role in roles)),
            lambda: fit(
                self.frame.budget(pool),
                self.trainer_memory(key, recomputed) if ranked else None,
                [self.need(role, key.tp(role), beside=ranked) for role in roles],
                sleep=self.frame.cuda,
            ),
        )

    def trainer_memory(self, key: CandidateKey, recomputed: int | None = None) -> TrainerMemory:
        """Memory of a trainer rank that recomputes as many layers as the configuration says, or as are given."""
        frame, transfers = self.frame, self.frame.transfers(key.mode)
        config = with_replicas(frame.config, key.replicas)
        config = config if recomputed is None else with_recomputed_layers(config, recomputed)
        return self._cache.get(
            ("trainer", key.ranks, key.replicas, transfers, recomputed),
            lambda: trainer_ledger(frame.learner, config, key.ranks, cuda=frame.cuda, transfers=transfers),
        )

    def need(self, role: Source, tp: int, *, beside: bool) -> EngineNeed:
        """Memory of an engine on one device."""
        frame = self.frame
        groups = {"learner": "learner_groups", "explorer": "explorer_groups"}[role]
        rollouts = sum(getattr(phase, groups) for phase in frame.work.phases)
        transfer = frame.transfer(role, beside=beside)
        return self._cache.get(
            ("need", role, tp, transfer),
            lambda: engine_need(
                frame.shape(role), frame.config, role, tp, cuda=frame.cuda, transfer=transfer, rollouts=rollouts
            ),
        )

    # ---- which bundles are whose ---------------------------------------------------------------------------------

    def _split_bundles(self, base: Candidate) -> None:
        """Keep the best splits of the bundles."""
        options = self._options(base) if base.key.mode.has_engine_gpus else [([0], 0)]
        if not options:
            self._found.rejected.append(Rejected(base.key, None, self._too_few(base)))
        for choices, total in options:
            self._split(replace(base, bundles=BundleSplit(base.bundles.learner, total)), np.array(choices))

    def _split(self, base: Candidate, choices: IntArray) -> None:
        """Keep the best split, without and with hand-over, into this many learner bundles."""
        phases, wait = self.phase_costs(base, choices)
        total, asked = base.bundles.total, self.frame.config.placement.hand_over
        hands_over = asked != "off" and total > 0 and self._can_hand_over(base)
        found = []
        if not (hands_over and asked == "on"):
            found.append(fixed_split(phases, choices, wait))
        if hands_over and sum(phase.seconds.min() for phase in phases) < self._to_beat(base):
            start_s = self.timing.rates(base.key.samplers).engine_start_s
            found.append(growing_split(phases, choices, wait, total=total, forced=asked == "on", start_s=start_s))
        for learner, seconds in found:
            if np.isfinite(seconds):
                self._found.add(replace(base, bundles=BundleSplit(learner, total), run_seconds=seconds))

    def phase_costs(self, base: Candidate, choices: IntArray) -> tuple[list[PhaseCosts], FloatArray]:
        """Seconds of every phase and what the first step takes longer, for these numbers of learner bundles."""
        steps, waits = self.timing.matrices(base, choices)
        steps = self.timing.steps[:, None] * steps
        phases, first = [], 0
        for phase in self.frame.work.phases:
            last = first + len(phase.splits)
            phases.append(PhaseCosts(steps[first:last].sum(axis=0), phase.steps, phase.explorer_groups > 0))
            first = last
        return phases, waits[0]

    def _can_hand_over(self, base: Candidate) -> bool:
        phases = self.frame.work.phases
        return len(phases) > 1 and phases[0].explorer_groups > 0 and {"learner", "explorer"} <= set(base.bundle_fit)

    def _to_beat(self, base: Candidate) -> float:
        """Seconds of the best known candidate of the family with hand-over; a slower one need not be split."""
        known = self._found.best.get((base.key.mode.name, base.key.learner_tp, base.key.explorer_tp, True))
        return known.run_seconds if known else np.inf

    def _options(self, base: Candidate) -> list[tuple[list[int], int]]:
        """(numbers of learner bundles to try, all bundles that are used), one entry for each number of all bundles."""
        learner, explorer = self._asked_bundles(base)
        least = learner or (0 if base.key.mode.learner_sleeps else 1)
        if not base.key.explorer_tp:
            explorer = 0
        spare = 0 if base.key.mode.explorer_sleeps else 1
        most = base.available - (spare if explorer is None else explorer)
        if least > most:
            return []
        if learner is not None:
            totals = [base.available if explorer is None else learner + explorer]
            return [(sorted({learner, total}), total) for total in totals]
        if explorer is not None:  # learner bundles are all others, which need not be all that there are
            numbers = [n for n in (0, *sizes(most, NODE_BITS)) if n >= least]
            return [(sorted({n, n + explorer}), n + explorer) for n in numbers]
        numbers = [n for n in (0, *sizes(most, SPLIT_BITS)) if n >= least]
        return [([*numbers, base.available], base.available)]

    def _asked_bundles(self, base: Candidate) -> tuple[int | None, int | None]:
        """Bundles for the engines that engines.learner.count and engines.explorer.count ask for."""

        def bundles(role: Source) -> int | None:
            count = self.frame.engine(role).count
            if count is None or not base.key.tp(role):
                return None
            return -(-max(0, count - base.shared.get(role, 0)) // base.key.engines_per_bundle(role))

        return bundles("learner"), bundles("explorer")

    def _too_few(self, base: Candidate) -> str:
        learner, explorer = self._asked_bundles(base)
        asked = [f"{n} for {role}s" for n, role in ((learner, "learner"), (explorer, "explorer")) if n]
        return (
            f"beside {base.key.ranks} trainer ranks there is room for {base.available} bundles of "
            f"{_gpus(base.key.bundle_gpus)}, too few" + (f" ({', '.join(asked)} asked for)" if asked else "")
        )


def _gpus(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"
