"""Times of candidates, each part computed once: most candidates share their parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from s2l_ray.kinds import Source
from s2l_ray.planner import costs
from s2l_ray.planner.costs import Rates, Sampler, StepParts
from s2l_ray.planner.search.candidates import Candidate, Frame, Key
from s2l_ray.planner.search.pools import Pool
from s2l_ray.planner.workload import Split

T = TypeVar("T")


class Memory:
    """What was computed before, by key."""

    def __init__(self) -> None:
        self._known: dict[tuple, object] = {}

    def get(self, key: tuple, compute: Callable[[], T]) -> T:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = compute()
        return found


class Timing:
    """Of one plan's candidates."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._memory = Memory()
        self.steps = np.array([split.steps for split in frame.splits], dtype=float)

    # ---- parts of a step ---------------------------------------------------------------------------------------

    def rates(self, pool: Pool, threads: int = 1) -> Rates:
        return self._memory.get(("rates", pool, threads), lambda: self._frame.rates(pool, threads))

    def trainer_rates(self, key: Key) -> Rates:
        return self.rates(key.trainers, self._frame.config.trainer.threads)

    def sampler(self, role: Source, pool: Pool, tensor_parallel: int, kv: int) -> Sampler:
        """One engine."""
        frame, engine = self._frame, self._frame.engine(role)
        return self._memory.get(
            ("sampler", role, pool, tensor_parallel, kv),
            lambda: Sampler(
                shape=frame.shape(role),
                tensor_parallel=tensor_parallel,
                kv_cache_bytes=kv,
                max_num_seqs=engine.max_num_seqs,
                dtype_bytes=frame.dtype_bytes,
                rates=self.rates(pool, engine.threads),
            ),
        )

    def generation(self, role: Source, pool: Pool, tp: int, kv: int, engines: int, rollouts: int) -> float:
        """Seconds of sampling a step with so many engines; infinite without engines where there is work."""
        if rollouts == 0:
            return 0.0
        if engines == 0:
            return math.inf
        prompts = -(-self._frame.work.prompts // engines)
        return self._memory.get(
            ("generation", role, pool, tp, kv, prompts, rollouts),
            lambda: costs.generation_seconds(
                self.sampler(role, pool, tp, kv), self._frame.sampling(rollouts, prompts), 1
            ),
        )

    def update(self, key: Key, nodes: int) -> np.ndarray:
        """Seconds of a step's optimizer steps, by split."""
        frame = self._frame
        return self._memory.get(
            ("update", key.trainers, key.ranks, nodes),
            lambda: np.array(
                [
                    costs.update_seconds(
                        frame.learner,
                        frame.work,
                        split,
                        ranks=key.ranks,
                        nodes=nodes,
                        rates=self.trainer_rates(key),
                        dtype_bytes=frame.dtype_bytes,
                    )
                    for split in frame.splits
                ]
            ),
        )

    def weight_sync(self, base: Candidate, learner_bundles: np.ndarray | int) -> np.ndarray:
        """Seconds of a weight sync when so many bundles are the learner's. Rank 0, on the first node, sends."""
        key = base.key
        apart = key.trainers is not key.samplers
        near = 0 if apart else base.sampler_rows[0].bundles
        far = np.asarray(learner_bundles) > near
        return np.where(far, self._weight_sync(key, base.nodes, True), self._weight_sync(key, base.nodes, False))

    def _weight_sync(self, key: Key, nodes: int, far: bool) -> float:
        return self._memory.get(
            ("weight_sync", key.trainers, key.ranks, nodes, far),
            lambda: costs.weight_sync_seconds(
                self._frame.learner,
                ranks=key.ranks,
                nodes=nodes,
                far=far,
                rates=self.trainer_rates(key),
                dtype_bytes=self._frame.dtype_bytes,
            ),
        )

    def sleep_wake(self, base: Candidate) -> float:
        """Seconds of a step in which engines beside the ranks go to sleep and wake."""
        key = base.key
        if key.mode == "separate" or not self._frame.cuda:
            return 0.0
        explorer = None
        if "explorer" in key.beside:
            explorer = self.sampler("explorer", key.trainers, key.explorer_tp, base.trainer.kv["explorer"])
        return costs.sleep_wake_seconds(explorer, self.rates(key.trainers))

    # ---- steps -------------------------------------------------------------------------------------------------

    def bundle_engines(self, base: Candidate, role: Source, learner_bundles: np.ndarray | int) -> np.ndarray:
        """Engines of a role in the bundles, when so many bundles are the learner's."""
        if role not in base.bundle_fit:
            return np.asarray(learner_bundles) * 0
        per = base.key.engines_per_bundle(role)
        bundles = np.asarray(learner_bundles if role == "learner" else base.bundles.total - np.asarray(learner_bundles))
        pinned = self._frame.engine(role).count
        unused = 0 if pinned is None else -max(0, pinned - base.shared.get(role, 0)) % per
        return np.maximum(0, bundles * per - unused)

    def sampling(self, base: Candidate, role: Source, learner_bundles: np.ndarray) -> np.ndarray:
        """Seconds of sampling a step: [split, number of learner bundles]. Engines in bundles and beside ranks share it."""
        key = base.key
        counts = [getattr(split, role) for split in self._frame.splits]
        result = np.full((len(counts), len(learner_bundles)), np.inf)
        if role in base.bundle_fit:
            kv = base.bundle_fit[role].kv[role]
            table = self._memory.get(
                ("table", role, key.samplers, key.tp(role), kv),
                lambda: self._table(role, key.samplers, key.tp(role), kv, counts),
            )
            result = table[:, self.bundle_engines(base, role, learner_bundles)]
        if role in base.shared:
            kv, engines = base.trainer.kv[role], base.shared[role]
            beside = [self.generation(role, key.trainers, key.tp(role), kv, engines, n) for n in counts]
            with np.errstate(divide="ignore"):
                result = 1 / (1 / np.array(beside)[:, None] + 1 / result)
        return np.where(np.array(counts)[:, None] > 0, result, 0.0)

    def _table(self, role: Source, pool: Pool, tp: int, kv: int, counts: list[int]) -> np.ndarray:
        """[split, engines]"""
        shares = np.array([-(-self._frame.work.prompts // n) for n in range(1, pool.gpus // tp + 1)])
        distinct, first, where = np.unique(shares, return_index=True, return_inverse=True)
        by_count = {
            count: np.array([self.generation(role, pool, tp, kv, int(n) + 1, count) for n in first])[where]
            for count in set(counts)
        }
        return np.array([[np.inf if count else 0.0, *by_count[count]] for count in counts])

    def matrices(self, base: Candidate, learner_bundles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(seconds of a step, what it takes longer if nothing was sampled ahead): [split, number of learner bundles]."""
        frame, key = self._frame, base.key
        learn = self.sampling(base, "learner", learner_bundles)
        explore = self.sampling(base, "explorer", learner_bundles) if key.explorer_tp else np.zeros_like(learn)
        trained = (
            self.update(key, base.nodes)[:, None] + self.weight_sync(base, learner_bundles) + self.sleep_wake(base)
        )
        if key.mode == "colocated":
            return explore + learn + trained, np.zeros_like(learn)
        together = np.maximum(explore, learn) + trained
        if frame.work.stale:
            explored = explore if frame.work.ahead else explore + trained
            ahead = np.maximum(np.maximum(explored, learn + self.weight_sync(base, learner_bundles)), trained)
        elif frame.work.ahead:
            ahead = np.maximum(explore, learn + trained)
        else:
            return together, np.zeros_like(learn)
        with np.errstate(invalid="ignore"):
            return ahead, np.nan_to_num(together - ahead)  # inf - inf, where there is no engine

    def parts(self, base: Candidate, learner_bundles: int, split: Split) -> StepParts:
        """Of one step."""
        number, choice = self._frame.splits.index(split), np.array([learner_bundles])
        explores = base.key.explorer_tp > 0
        return StepParts(
            explore=float(self.sampling(base, "explorer", choice)[number, 0]) if explores else 0.0,
            learner_generate=float(self.sampling(base, "learner", choice)[number, 0]),
            sleep_wake=self.sleep_wake(base),
            update=float(self.update(base.key, base.nodes)[number]),
            weight_sync=float(self.weight_sync(base, learner_bundles)),
        )
