"""Where a plan meets Ray: one placement group for the run, bundles in physical order.

A request that no cluster like this one can hold fails within seconds, naming what is short. Busy resources, and nodes
that an autoscaler has yet to bring, are waited for, within a bound and with a word every 30 s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s2l_ray.errors import NodesChangedError, PlacementError
from s2l_ray.placement.live_nodes import PROBE_TIMEOUT_S, REPORT_EVERY_S, address_of
from s2l_ray.placement.node_check import Resources, check_nodes, describe, list_nodes, pick
from s2l_ray.placement.plan import PlannedBundle, Slot

RAY_UNIT = 1e-4
"""Ray's smallest amount of a resource."""
REMOVAL_S = 2.0
"""Bound on giving up a group that could not be had."""


@dataclass(frozen=True)
class Place:
    """A planned bundle, found on the cluster."""

    index: int
    """Index of the bundle within the placement group."""
    node: str
    """Ray node id."""
    gpus: tuple[str, ...]
    """Ids of the bundle's GPUs on its node, ascending."""


class Reservation:
    """The run's one placement group. Use as `options(slot)` of every actor; `release()` on every exit.

    Args:
        group: created.
        places: for every planned bundle, in the plan's order, where it is. `find` brings them up to date.
        given: the group is that of the process that the run is in, such as a trial of Tune's; whoever made it removes
            it.
    """

    def __init__(self, group: PlacementGroup, places: Sequence[Place], given: bool = False) -> None:
        self.group = group
        self.places = list(places)
        self._given = given
        self._asked: dict[int, tuple[str, ray.ObjectRef]] = {}
        """By index of a bundle: the node that it was moved to, and the ids of its GPUs there."""

    def find(self, bundle: int) -> bool:
        """Whether a bundle's node is there. In place of one that is lost Ray chooses another, if it has room or joins.

        Args:
            bundle: its position in the plan, of which no actor is left where its node is lost.
        """
        place, alive = self.places[bundle], nodes_alive()
        if place.node in alive:
            return True
        node = placement_group_table(self.group)["bundles_to_node_id"].get(place.index)
        if node not in alive or (gpus := self._gpus_on(node, place.index)) is None:
            return False
        self.places[bundle] = Place(place.index, node, gpus)
        return True

    def _gpus_on(self, node: str, index: int) -> tuple[str, ...] | None:
        """Ids of the GPUs that a bundle of the group has got on another node; None: it has not said so yet."""
        if not self.group.bundle_specs[index].get("GPU"):
            return ()
        if self._asked.get(index, ("", None))[0] != node:
            self._asked[index] = (node, _ask_gpus(self.group, index))
        asked = self._asked[index][1]
        if not ray.wait([asked], timeout=0)[0]:
            return None
        del self._asked[index]
        try:
            gpus: tuple[str, ...] = ray.get(asked, timeout=PROBE_TIMEOUT_S)
        except ray.exceptions.RayError:  # the node is lost again
            return None
        return gpus

    def options(self, slot: Slot, cpus: float, environment: dict[str, str]) -> dict[str, Any]:
        """Ray options that put an actor on its bundle, with its share of the devices and only these visible.

        GPUs are pinned by number: Ray would give two actors of half a GPU each the same one, and knows no half of two.
        An actor without a share sees none, which Ray leaves to whoever starts it: torch would compute on the first.
        """
        place = self.places[slot.bundle]
        gpus = [place.gpus[device] for device in slot.devices]
        pin = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
        amount = slot.share * len(gpus)
        return {
            "num_cpus": cpus,
            "num_gpus": amount if amount <= 1 else int(amount),  # Ray wants whole GPUs above one
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=place.index
            ),
            "runtime_env": {"env_vars": environment | pin},
        }

    def release(self) -> None:
        """Give a group of the run's own back; kills what still runs there."""
        if not self._given:
            remove_placement_group(self.group)


def nodes_alive() -> set[str]:
    """Ids of the nodes that Ray takes for alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def reserve(
    bundles: Sequence[PlannedBundle],
    timeout_s: float,
    on_wait: Callable[[str], None] = lambda message: None,
    may_grow: bool = False,
) -> Reservation:
    """Reserve every bundle at once and find out where each is. A process in a placement group has them reserved there.

    Bundles of equal resources are put in physical order (node address, GPU number), as the plan counts them, so that
    neighbouring ranks are neighbours.

    Args:
        timeout_s: bound on the wait for busy resources or new nodes.
        on_wait: told every 30 s what is being waited for.
        may_grow: an autoscaler may add nodes, so that what is impossible now is waited for as well.

    Raises:
        PlacementError: the cluster's nodes cannot hold the bundles (unless `may_grow`), or not within `timeout_s` s;
            or the placement group of this process has others (NodesChangedError).
    """
    asked = [bundle.resources for bundle in bundles]
    if given := get_current_placement_group():
        _check_given(given.bundle_specs, asked)
        return Reservation(given, _in_physical_order(bundles, _locate(given)), given=True)
    if not may_grow:
        check_cluster(asked)
    group = placement_group(asked, strategy="PACK")
    try:
        _wait(group, asked, timeout_s, on_wait, may_grow)
        return Reservation(group, _in_physical_order(bundles, _locate(group)))
    except BaseException:
        # In a thread: where Ray was ended at the same time, the answer may not come.
        removal = threading.Thread(target=remove_placement_group, args=(group,), daemon=True)
        removal.start()
        removal.join(REMOVAL_S)
        raise


def check_cluster(bundles: Sequence[Resources]) -> None:
    """Fail at once when the nodes that Ray has cannot hold the bundles.

    Raises:
        PlacementError: see `check_nodes`.
    """
    check_nodes(bundles, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def _check_given(has: Sequence[Resources], asked: Sequence[Resources]) -> None:
    """Refuse the placement group of this process unless it has exactly the bundles of the plan, in their order."""
    names = {name for bundle in (*has, *asked) for name in bundle}
    if len(has) == len(asked) and all(
        abs(there.get(name, 0.0) - wanted.get(name, 0.0)) < RAY_UNIT
        for there, wanted in zip(has, asked, strict=True)
        for name in names
    ):
        return
    raise NodesChangedError(
        f"the run is in a placement group of {describe(has)}, and its plan has {describe(asked)}. Under Tune leave "
        "tune.with_resources out, since S2LPO asks for what its plan needs. Where nodes have joined or left since "
        "the trial was planned, restore the Tuner; a study of s2l tune plans the trial again by itself, "
        "max_failures times. To plan for certain nodes whatever there is, describe them in placement.inventory"
    )


def _wait(
    group: PlacementGroup,
    asked: Sequence[Resources],
    timeout_s: float,
    on_wait: Callable[[str], None],
    may_grow: bool,
) -> None:
    start = time.monotonic()
    while not group.wait(timeout_seconds=min(REPORT_EVERY_S, max(0.1, start + timeout_s - time.monotonic()))):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        impossible = placement_group_table(group)["stats"]["scheduling_state"] == "INFEASIBLE"
        if impossible and not may_grow:
            raise PlacementError(f"the nodes cannot hold {describe(asked)} together; nodes have {list_nodes(nodes)}")
        waited = time.monotonic() - start
        free = pick(ray.available_resources())
        if waited > timeout_s:
            raise PlacementError(
                f"waited {timeout_s:.0f} s for {describe(asked)}; free now: {free}; nodes have {list_nodes(nodes)}. "
                "Free resources, add nodes, or raise cluster.start_timeout_s"
            )
        on_wait(f"waited {waited:.0f} of {timeout_s:.0f} s for {describe(asked)}; free now: {free}")


def _locate(group: PlacementGroup) -> list[Place]:
    """Where the bundles of the group are."""
    nodes, bundles = placement_group_table(group)["bundles_to_node_id"], group.bundle_specs
    probes = {index: _ask_gpus(group, index) for index, bundle in enumerate(bundles) if bundle.get("GPU")}
    try:
        gpus = dict(zip(probes, ray.get(list(probes.values()), timeout=PROBE_TIMEOUT_S), strict=True))
    except ray.exceptions.RayError as error:
        raise PlacementError(f"the reserved bundles did not say which GPUs they hold: {error}") from error
    return [Place(index, nodes[index], gpus.get(index, ())) for index in range(len(bundles))]


def _ask_gpus(group: PlacementGroup, index: int) -> ray.ObjectRef:
    """Ask a bundle for the ids of its GPUs, of which nothing else is in use."""
    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
    return _gpu_ids.options(num_gpus=group.bundle_specs[index]["GPU"], scheduling_strategy=place).remote()


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]  # Ray has no types
def _gpu_ids() -> tuple[str, ...]:
    return tuple(sorted(map(str, ray.get_gpu_ids()), key=_numerically))


def _in_physical_order(bundles: Sequence[PlannedBundle], places: Sequence[Place]) -> list[Place]:
    """A place for every planned bundle: the n-th of its kind, as the plan counts, gets the n-th as machines stand."""
    address = {node["NodeID"]: address_of(node) for node in ray.nodes()}
    kinds: dict[tuple[tuple[str, float], ...], list[int]] = {}
    for index, bundle in enumerate(bundles):
        kinds.setdefault(tuple(sorted(bundle.resources.items())), []).append(index)
    found: dict[int, Place] = {}
    for members in kinds.values():
        planned = sorted(members, key=lambda i: (bundles[i].node, bundles[i].gpus, i))
        physical = sorted(
            (places[i] for i in members),
            key=lambda p: (int(address[p.node]), p.node, [_numerically(gpu) for gpu in p.gpus], p.index),
        )
        found.update(zip(planned, physical, strict=True))
    return [found[index] for index in range(len(bundles))]


def _numerically(gpu: str) -> tuple[int, str]:
    return (int(gpu), "") if gpu.isdigit() else (0, gpu)  # a UUID, as MIG slices have
