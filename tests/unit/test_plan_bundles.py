"""Where ranks and bundles go, and whose bundles they are in which phase, on small cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.search.handover import PhaseCosts, fixed_split, growing_split, late_seconds
from s2l_ray.planner.search.pools import (
    NodePool,
    PackedNodes,
    bundles_in,
    pack,
    pool_pairs,
    rank_nodes,
    shared_engines,
    sizes,
)

INF = math.inf
# Learner bundles 1, 2 or 3 of 3; the explorer needs one as long as it samples.
PHASES = [
    PhaseCosts(np.array([100.0, 300.0, INF]), 10, True),
    PhaseCosts(np.array([800.0, 400.0, 200.0]), 20, False),
]
CHOICES, NO_WAIT = np.array([1, 2, 3]), np.zeros(3)


def test_without_hand_over_one_split_serves_all_phases() -> None:
    assert fixed_split(PHASES, CHOICES, NO_WAIT) == ((2, 2), 700.0)
    assert fixed_split(PHASES, CHOICES, np.array([0.0, 500.0, 0.0])) == ((1, 1), 900.0)


def test_late_engines_slow_the_first_steps() -> None:
    """From 1 to 3 bundles steps fall from 40 s to 10 s; in 80 s of start 2 steps have passed, each 30 s longer."""
    assert late_seconds(PHASES[1], 80.0)[0, 2] == pytest.approx(60.0)
    assert late_seconds(PHASES[1], 1e9)[0, 2] == pytest.approx(20 * 30.0)
    assert late_seconds(PHASES[1], 80.0)[2, 0] == 0


def test_hand_over_where_it_pays() -> None:
    split, seconds = growing_split(PHASES, CHOICES, NO_WAIT, total=3, forced=False, start_s=80.0)
    assert split == (1, 3) and seconds == pytest.approx(100 + 60 + 200)
    # Engines that take the whole phase to start gain nothing, whatever is handed over.
    assert growing_split(PHASES, CHOICES, NO_WAIT, total=3, forced=False, start_s=1e9) == ((2, 2), 700.0)
    split, seconds = growing_split(PHASES, CHOICES, NO_WAIT, total=3, forced=True, start_s=1e9)
    assert split == (2, 3) and seconds == pytest.approx(300 + 200 + 20 * (20 - 10))


def test_bundles_are_never_handed_back() -> None:
    phases = [PhaseCosts(np.array([9.0, 1.0, 9.0]), 1, True), PhaseCosts(np.array([0.0, 5.0, 5.0]), 1, True)]
    split, seconds = growing_split(phases, CHOICES, NO_WAIT, total=3, forced=False, start_s=0.0)
    assert split == (2, 2) and seconds == 6.0


def pool(*nodes: tuple[int, float]) -> NodePool:
    rows = [{"gpus": gpus, "gpu": "H100", "cpus": cpus} for gpus, cpus in nodes]
    return NodePool.of(list(enumerate(Inventory.of(rows).specs)))


def test_ranks_are_packed_and_bundles_stay_within_nodes() -> None:
    """11 ranks on nodes of 8: one full, 3 on the next; bundles of 4: one beside those 3, two on the last node."""
    rows = pack(pool((8, 64), (8, 64), (8, 64)), 11, 4, 1.0, 1.0)
    assert rows == (PackedNodes(1, 8, 0), PackedNodes(1, 3, 1), PackedNodes(1, 0, 2))
    assert (rank_nodes(rows), bundles_in(rows), shared_engines(rows, 2), shared_engines(rows, 4)) == (2, 3, 5, 2)
    assert pack(pool((8, 64)), 9, 1, 1.0, 1.0) is None


def test_cpus_bound_ranks_and_bundles() -> None:
    """5 CPUs: 2 ranks of 2 CPUs each, and one bundle of one CPU on the CPU that is left."""
    assert pack(pool((8, 5)), 2, 1, 2.0, 1.0) == (PackedNodes(1, 2, 1),)
    assert pack(pool((8, 5)), 3, 1, 2.0, 1.0) is None


def test_large_nodes_come_first() -> None:
    found = pool((4, 64), (8, 64), (4, 64))
    assert found.nodes == (1, 0, 2) and found.gpus == 16 and found.largest_node == 8
    assert pack(found, 9, 1, 1.0, 1.0) == (PackedNodes(1, 8, 0), PackedNodes(1, 1, 3), PackedNodes(1, 0, 4))


def test_pools_are_of_equal_nodes_and_their_unions() -> None:
    rows = [{"gpus": 8, "gpu": "H100"}, {"gpus": 4, "gpu": "L4"}, {"gpus": 8, "gpu": "H100"}, {"gpus": 0, "cpus": 8}]
    pairs = [(trainers.nodes, samplers.nodes) for trainers, samplers in pool_pairs(Inventory.of(rows).specs)]
    both = (0, 2, 1)
    assert pairs == [((0, 2), (0, 2)), ((1,), (1,)), (both, both), ((0, 2), (1,)), ((1,), (0, 2))]


def test_sizes_do_not_depend_on_the_limit() -> None:
    assert sizes(20, 3) == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20)
    assert sizes(8, 5) == tuple(range(1, 9))
    assert set(sizes(100, 4)) < set(sizes(1000, 4))
