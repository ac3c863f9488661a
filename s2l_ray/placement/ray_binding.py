"""Reserving a run's resources on a Ray cluster: one placement group, or one clear error before anything starts."""

from __future__ import annotations

import time

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from s2l_ray.errors import PlacementError

Bundle = dict[str, float]


def reserve(bundles: list[Bundle], timeout_s: float, on_wait=lambda message: None) -> PlacementGroup:
    """Reserve every bundle at once.

    Args:
        bundles: resources of each actor, for example {"CPU": 1.0, "GPU": 0.5}.
        timeout_s: bound on the wait for busy resources.
        on_wait: told every 30 s what is being waited for.

    Raises:
        PlacementError: the cluster's nodes cannot hold the bundles, or they stay busy for `timeout_s` seconds.
    """
    check_totals(bundles, ray.cluster_resources())
    group = placement_group(bundles, strategy="PACK", name="")
    deadline = time.monotonic() + timeout_s
    try:
        while not group.wait(timeout_seconds=min(30.0, max(0.1, deadline - time.monotonic()))):
            if placement_group_table(group)["stats"]["scheduling_state"] == "INFEASIBLE":
                raise PlacementError(
                    f"no node can hold the largest bundle of {_describe(bundles)}; nodes have: {_nodes()}"
                )
            if time.monotonic() > deadline:
                raise PlacementError(
                    f"waited {timeout_s:.0f} s for {_describe(bundles)}; free now: {_pick(ray.available_resources())}. "
                    "Free resources, or raise cluster.start_timeout_s"
                )
            on_wait(f"waiting for {_describe(bundles)}; free now: {_pick(ray.available_resources())}")
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def check_totals(bundles: list[Bundle], cluster: dict[str, float]) -> None:
    """Fail at once when the whole cluster has less than the sum of the bundles.

    Raises:
        PlacementError: naming every resource that is short, what is asked and what is there.
    """
    short = []
    for resource in sorted({name for bundle in bundles for name in bundle}):
        asked = sum(bundle.get(resource, 0.0) for bundle in bundles)
        if asked > cluster.get(resource, 0.0) + 1e-9:
            short.append(f"{asked:g} {resource} asked for, {cluster.get(resource, 0.0):g} in the cluster")
    if short:
        raise PlacementError(
            "not enough resources: "
            + "; ".join(short)
            + ". Lower trainer.{ranks,cpus,gpus} or engines.{explorer,learner}.{count,cpus,gpus}, or add nodes"
        )


def _describe(bundles: list[Bundle]) -> str:
    totals: Bundle = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            totals[name] = totals.get(name, 0.0) + amount
    return f"{len(bundles)} bundles ({_pick(totals)})"


def _pick(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name)) or "nothing"


def _nodes() -> str:
    return "; ".join(_pick(node["Resources"]) for node in ray.nodes() if node["Alive"])
