"""Times of candidates, each part computed once: most candidates share their parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np

from s2l_ray.kinds import Source
from s2l_ray.planner import costs
from s2l_ray.planner.costs import FloatArray, IntArray, Rates, Sampler, StepParts
from s2l_ray.planner.search.candidates import Candidate, CandidateKey
from s2l_ray.planner.search.frame import Frame
from s2l_ray.planner.search.pools import NodePool
from s2l_ray.planner.workload import Split

T = TypeVar("T")


class Cache:
    """Remembers what was computed, by key."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value under `key`, computed unless it is known."""
        if key not in self._known:
            self._known[key] = compute()
        found: T = self._known[key]
        return found


class Timing:
    """Seconds of the candidates of one plan."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._cache = Cache()
        self.steps = np.array([split.steps for split in frame.splits], dtype=float)

    # ---- parts of a step ---------------------------------------------------------------------------------------

    def rates(self, pool: NodePool, threads: int = 1) -> Rates:
        """Rates of the slowest device of some nodes."""
        return self._cache.get(("rates", pool, threads), lambda: self._frame.rates(pool, threads))

    def trainer_rates(self, key: CandidateKey) -> Rates:
        """Rates of a trainer rank."""
        return self.rates(key.trainers, self._frame.config.trainer.threads_on(cuda=True))

    def sampler(self, role: Source, pool: NodePool, tensor_parallel: int, kv: int) -> Sampler:
        """One engine."""
        frame, engine = self._frame, self._frame.engine(role)
        return self._cache.get(
            ("sampler", role, pool, tensor_parallel, kv),
            lambda: Sampler(
                shape=frame.shape(role),
                tensor_parallel=tensor_parallel,
                kv_cache_bytes=kv,
                max_num_seqs=engine.max_num_seqs,
                dtype_bytes=frame.dtype_bytes,
                rates=self.rates(pool, engine.threads).of_engine(batch_invariant=engine.batch_invariant and frame.cuda),
            ),
        )

    def generation(self, role: Source, pool: NodePool, tp: int, kv: int, engines: int, rollouts: int) -> float:
        """Seconds of sampling a step with this many engines; infinite without engines where there is work."""
        if rollouts == 0:
            return 0.0
        if engines == 0:
            return math.inf
        prompts = -(-self._frame.work.prompts // engines)
        return self._cache.get(
            ("generation", role, pool, tp, kv, prompts, rollouts),
            lambda: costs.generation_seconds(
                self.sampler(role, pool, tp, kv), self._frame.sampling(rollouts, prompts), 1
            ),
        )

    def update(self, base: Candidate) -> FloatArray:
        """Seconds of a step's optimizer steps, by split."""
        frame, key, nodes, near = self._frame, base.key, base.nodes, base.replica_nodes
        work = base.work(frame)
        return self._cache.get(
            ("update", key.trainers, key.ranks, key.replicas, nodes, near, work.recompute),
            lambda: np.array(
                [
                    costs.update_seconds(
                        frame.learner,
                        work,
                        split,
                        ranks=key.ranks,
                        replicas=key.replicas,
                        nodes=nodes,
                        replica_nodes=near,
                        rates=self.trainer_rates(key),
                        dtype_bytes=frame.dtype_bytes,
                    )
                    for split in frame.splits
                ]
            ),
        )

    def weight_sync(self, base: Candidate, learner_bundles: IntArray) -> FloatArray:
        """Seconds of a weight sync, float [choice]; rank 0, on the first node, sends."""
        key = base.key
        apart = key.trainers is not key.samplers
        near = 0 if apart else base.sampler_rows[0].bundles
        far = learner_bundles > near
        nodes = base.replica_nodes
        return np.where(far, self._weight_sync(key, nodes, True), self._weight_sync(key, nodes, False))

    def _weight_sync(self, key: CandidateKey, nodes: int, far: bool) -> float:
        return self._cache.get(
            ("weight_sync", key.trainers, key.sharing, nodes, far),
            lambda: costs.weight_sync_seconds(
                self._frame.learner,
                ranks=key.sharing,
                nodes=nodes,
                far=far,
                rates=self.trainer_rates(key),
                dtype_bytes=self._frame.dtype_bytes,
            ),
        )

    def sleep_wake(self, base: Candidate) -> float:
        """Seconds of a step in which engines beside the ranks go to sleep and wake."""
        key = base.key
        if not key.mode.sleeping or not self._frame.cuda:
            return 0.0
        explorer = None
        if "explorer" in key.beside:
            explorer = self.sampler("explorer", key.trainers, key.explorer_tp, base.trainer.kv["explorer"])
        return costs.sleep_wake_seconds(explorer, self.rates(key.trainers))

    # ---- steps -------------------------------------------------------------------------------------------------

    def bundle_engines(self, base: Candidate, role: Source, learner_bundles: IntArray) -> IntArray:
        """Number of engines of a role, int [choice], when this many engine bundles are the learner's."""
        if role not in base.bundle_fit:
            return np.zeros_like(learner_bundles)
        per = base.key.engines_per_bundle(role)
        bundles = learner_bundles if role == "learner" else base.bundles.total - learner_bundles
        pinned = self._frame.engine(role).count
        unused = 0 if pinned is None else -max(0, pinned - base.shared.get(role, 0)) % per
        engines: IntArray = np.maximum(0, bundles * per - unused)
        return engines

    def sampling(self, base: Candidate, role: Source, learner_bundles: IntArray) -> FloatArray:
        """Seconds of sampling a step, float [split, choice]; engines in bundles and beside ranks share the work."""
        key = base.key
        counts = [getattr(split, role) for split in self._frame.splits]
        result = np.full((len(counts), len(learner_bundles)), np.inf)
        if role in base.bundle_fit:
            kv = base.bundle_fit[role].kv[role]
            table = self._cache.get(
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

    def _table(self, role: Source, pool: NodePool, tp: int, kv: int, counts: list[int]) -> FloatArray:
        """Seconds of sampling, float [split, number of engines]; the first column is for none."""
        shares = np.array([-(-self._frame.work.prompts // n) for n in range(1, pool.gpus // tp + 1)])
        _, first, where = np.unique(shares, return_index=True, return_inverse=True)
        by_count = {
            count: np.array([self.generation(role, pool, tp, kv, int(n) + 1, count) for n in first])[where]
            for count in set(counts)
        }
        return np.array([[np.inf if count else 0.0, *by_count[count]] for count in counts])

    def matrices(self, base: Candidate, learner_bundles: IntArray) -> tuple[FloatArray, FloatArray]:
        """Seconds of a step, and how much longer it takes if nothing was sampled ahead.

        Args:
            learner_bundles: numbers of engine bundles that are the learner's, int [choice].

        Returns:
            Two arrays, float [split, choice]; infinite where there is no engine for work that there is.
        """
        frame, key = self._frame, base.key
        learn = self.sampling(base, "learner", learner_bundles)
        parts = StepParts(
            explore=self.sampling(base, "explorer", learner_bundles) if key.explorer_tp else np.zeros_like(learn),
            learner_generate=learn,
            sleep_wake=np.full_like(learn, self.sleep_wake(base)),
            update=self.update(base)[:, None],
            weight_sync=self.weight_sync(base, learner_bundles),
        )
        ahead, stale = frame.work.ahead, frame.work.stale
        steps = costs.step_seconds(key.mode, parts, ahead=ahead, stale=stale)
        return steps, costs.first_step_wait(key.mode, parts, ahead=ahead, stale=stale)

    def parts(self, base: Candidate, learner_bundles: int, split: Split) -> StepParts[float]:
        """The parts of a step with this split of its groups."""
        number, choice = self._frame.splits.index(split), np.array([learner_bundles])
        explores = base.key.explorer_tp > 0
        return StepParts(
            explore=float(self.sampling(base, "explorer", choice)[number, 0]) if explores else 0.0,
            learner_generate=float(self.sampling(base, "learner", choice)[number, 0]),
            sleep_wake=self.sleep_wake(base),
            update=float(self.update(base)[number]),
            weight_sync=float(self.weight_sync(base, choice)[0]),
        )
