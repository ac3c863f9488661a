"""Which nodes a plan may use, and how many trainer ranks and engine bundles fit on them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, groupby

from s2l_ray.placement.inventory import NodeSpec

SLACK = 1e-9
"""CPUs are added up as floats."""


@dataclass(frozen=True)
class NodeRun:
    """Neighbouring nodes with equally many GPUs and CPUs."""

    gpus: int
    cpus: float
    count: int


@dataclass(frozen=True, eq=False)
class NodePool:
    """Nodes that are planned with together, the ones with most GPUs first; rates and memory are those of the least."""

    nodes: tuple[int, ...]
    """Positions in the inventory, in the order in which they are filled."""
    runs: tuple[NodeRun, ...]
    specs: tuple[NodeSpec, ...]
    """The kinds of node among them."""
    together: int = 1
    """So many neighbouring nodes count as one, for tensor-parallel groups that cross nodes."""

    @classmethod
    def of(cls, numbered: list[tuple[int, NodeSpec]]) -> NodePool:
        """The pool of some nodes of an inventory, given with their positions."""
        ordered = sorted(numbered, key=lambda entry: (-entry[1].gpus, -entry[1].cpus, entry[0]))
        runs = groupby(ordered, key=lambda entry: (entry[1].gpus, entry[1].cpus))
        return cls(
            nodes=tuple(number for number, _ in ordered),
            runs=tuple(NodeRun(gpus, cpus, len(list(entries))) for (gpus, cpus), entries in runs),
            specs=tuple(dict.fromkeys(spec for _, spec in ordered)),
        )

    @cached_property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(run.gpus * run.count for run in self.runs)

    @property
    def gpu_memory_bytes(self) -> int:
        """Memory of the smallest GPU."""
        return min(spec.gpu_memory_bytes for spec in self.specs)

    @property
    def largest_node(self) -> int:
        """GPUs of the largest node."""
        return self.runs[0].gpus


@dataclass(frozen=True)
class PackedNodes:
    """`count` neighbouring nodes with the same load each."""

    count: int
    ranks: int
    bundles: int


def pack(
    pool: NodePool, ranks: int, bundle_gpus: int, rank_cpus: float, bundle_cpus: float
) -> tuple[PackedNodes, ...] | None:
    """Trainer ranks on the first nodes, as many per node as go, and bundles of `bundle_gpus` GPUs on what is left.

    A bundle never crosses a node. A node's CPUs bound both.

    Returns:
        Every node of the pool in order, with all the bundles that it has room for; None if the ranks do not fit.
    """
    rows, left = [], ranks

    def bundles(run: NodeRun, here: int) -> int:
        free = run.cpus - here * rank_cpus
        return max(0, min((run.gpus - here) // bundle_gpus, int((free + SLACK) // bundle_cpus)))

    for run in pool.runs:
        most = min(run.gpus, int((run.cpus + SLACK) // rank_cpus))
        full = min(run.count, left // most) if most else 0
        left -= full * most
        partial = min(left, most) if full < run.count else 0
        left -= partial
        for count, here in ((full, most), (1 if partial else 0, partial), (run.count - full - (partial > 0), 0)):
            if count:
                rows.append(PackedNodes(count, here, bundles(run, here)))
    return None if left else tuple(rows)


def rank_nodes(rows: tuple[PackedNodes, ...]) -> int:
    """Nodes with trainer ranks."""
    return sum(row.count for row in rows if row.ranks)


def replica_nodes(ranks: Sequence[int], replicas: int) -> int:
    """The most nodes that one replica's ranks are on, which are dealt to replicas in order.

    Args:
        ranks: number of ranks of each node that has some, in order.
    """
    ends = list(accumulate(ranks))
    sharing = ends[-1] // replicas
    firsts = range(0, ends[-1], sharing)
    return max(bisect_left(ends, first + sharing) - bisect_left(ends, first + 1) + 1 for first in firsts)


def shared_engines(rows: tuple[PackedNodes, ...], tensor_parallel: int) -> int:
    """Engines that fit beside the ranks, on the ranks' own GPUs, each within a node."""
    return sum(row.count * (row.ranks // tensor_parallel) for row in rows)


def bundles_in(rows: tuple[PackedNodes, ...]) -> int:
    """Engine bundles of all nodes together."""
    return sum(row.count * row.bundles for row in rows)


def pool_pairs(specs: tuple[NodeSpec, ...], *, across_nodes: bool = False) -> list[tuple[NodePool, NodePool]]:
    """(trainer's nodes, samplers' nodes) worth trying.

    Each kind of node alone, the first two kinds, the first three and so on, each for both; and every kind for the
    trainer with every other for the samplers.

    Nodes that are added at the end of an inventory only ever add to the pairs, or nodes to a pair: no plan is lost.

    Args:
        across_nodes: also nodes of a kind taken together, for tensor-parallel groups that cross them.
    """
    kinds: dict[NodeSpec, list[tuple[int, NodeSpec]]] = {}
    for number, spec in enumerate(specs):
        if spec.gpus:
            kind = replace(spec, memory_bytes=0)  # Ray's figure differs a little between equal nodes
            kinds.setdefault(kind, []).append((number, spec))
    single = [NodePool.of(nodes) for nodes in kinds.values()]
    groups = list(kinds.values())
    joined = [NodePool.of([node for group in groups[:n] for node in group]) for n in range(2, len(groups) + 1)]
    pairs = [(pool, pool) for pool in (*single, *joined)]
    pairs += [(trainer, sampler) for trainer in single for sampler in single if trainer is not sampler]
    if across_nodes:
        pairs += [(wide, wide) for pool in single for wide in _as_larger_nodes(pool)]
    return pairs


def _as_larger_nodes(pool: NodePool) -> list[NodePool]:
    """2, 4, ... nodes taken for one, whose links are those between nodes."""
    (run,), (spec, *_) = pool.runs, pool.specs
    found, together = [], 2
    while together <= run.count:
        larger = replace(spec, gpus=spec.gpus * together, intra=min(spec.intra, spec.inter))
        runs = (NodeRun(run.gpus * together, run.cpus * together, run.count // together),)
        found.append(NodePool(pool.nodes[: together * runs[0].count], runs, (larger,), together))
        together *= 2
    return found


@lru_cache
def sizes(limit: int, bits: int) -> tuple[int, ...]:
    """1, 2, ... `limit`, thinned out to numbers with this many leading binary digits.

    Exact while small; 3 bits are within 25% of any number, 5 bits within 6%. The same numbers whatever the limit.
    """
    found, step, number = [], 1, 1
    while number <= limit:
        found.append(number)
        number += step
        if number == step << bits:
            step *= 2
    return tuple(found)
