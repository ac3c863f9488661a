"""Whether nodes can hold a run's bundles at all, and how to say what is short."""

from __future__ import annotations

from collections.abc import Sequence

from s2l_ray.errors import PlacementError

Resources = dict[str, float]
"""As Ray counts them: {"CPU": 4.0, "GPU": 1.0}."""


def check_nodes(bundles: Sequence[Resources], nodes: Sequence[Resources]) -> None:
    """Fail at once when the nodes together, or any one of them, have less than is asked for.

    Raises:
        PlacementError: naming every resource that is short, what is asked and what is there.
    """
    names = sorted({name for bundle in bundles for name in bundle})
    short = [
        f"{asked:g} {name} asked for, {there:g} in the cluster"
        for name in names
        if (asked := sum(b.get(name, 0.0) for b in bundles)) > (there := sum(n.get(name, 0.0) for n in nodes)) + 1e-9
    ]
    short += [
        f"no node has {pick(dict(bundle))} for one bundle; nodes have {list_nodes(nodes)}"
        for bundle in {tuple(sorted(b.items())) for b in bundles}
        if not any(all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in bundle) for node in nodes)
    ]
    if not short and not may_fit(bundles, nodes):
        short.append(f"the nodes cannot hold {describe(bundles)} together; nodes have {list_nodes(nodes)}")
    if short:
        raise PlacementError(
            "not enough resources: "
            + "; ".join(short)
            + ". Lower trainer.{ranks,cpus} or engines.{explorer,learner}.{count,tensor_parallel,cpus}, or add nodes"
        )


def may_fit(bundles: Sequence[Resources], nodes: Sequence[Resources], tries: int = 10_000) -> bool:
    """Whether the bundles can be spread over the nodes. True also when that is not settled within `tries` placements.

    Ray itself takes bundles that never fit together for ones that wait for busy resources.
    """
    if len(bundles) > 500:  # deeper than Python recurses; the wait is still bounded
        return True
    waiting = sorted(bundles, key=lambda b: (-b.get("GPU", 0.0), -b.get("CPU", 0.0)))
    free = [dict(node) for node in nodes]
    left = iter(range(tries))

    def place(index: int) -> bool:
        if index == len(waiting) or next(left, None) is None:
            return True
        seen = set()
        for node in free:
            room = tuple(node.get(name, 0.0) for name in waiting[index])
            if room in seen or any(
                have + 1e-9 < need for have, need in zip(room, waiting[index].values(), strict=True)
            ):
                continue
            seen.add(room)
            _take(node, waiting[index], 1)
            if place(index + 1):
                return True
            _take(node, waiting[index], -1)
        return False

    return place(0)


def _take(node: Resources, bundle: Resources, sign: int) -> None:
    for name, amount in bundle.items():
        node[name] = node.get(name, 0.0) - sign * amount


def describe(bundles: Sequence[Resources]) -> str:
    """Such as "3 bundles (6 CPU, 4 GPU)"."""
    totals: Resources = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            totals[name] = totals.get(name, 0.0) + amount
    return f"{len(bundles)} bundles ({pick(totals)})"


def pick(resources: Resources) -> str:
    """Such as "4 CPU, 2 GPU"; other resources are left out."""
    return ", ".join(f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name)) or "nothing"


def list_nodes(nodes: Sequence[Resources]) -> str:
    """Like nodes together: "3 x (8 CPU, 2 GPU); 4 CPU"."""
    counts: dict[str, int] = {}
    for node in nodes:
        counts[pick(node)] = counts.get(pick(node), 0) + 1
    return "; ".join(kind if count == 1 else f"{count} x ({kind})" for kind, count in sorted(counts.items()))
