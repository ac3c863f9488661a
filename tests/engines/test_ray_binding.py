"""Reservations on real Ray clusters of several nodes with logical GPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import ray
import yaml
from ray.air.execution.resources.placement_group import PlacementGroupAcquiredResources
from ray.cluster_utils import Cluster
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import placement_group_table, remove_placement_group

from actors.node_meters import NodeMeters
from s2l_ray.cluster import pre_stop
from s2l_ray.config import load_config
from s2l_ray.errors import PlacementError
from s2l_ray.placement import ray_binding
from s2l_ray.placement.live_nodes import live_inventory, nodes_to_plan_for
from s2l_ray.placement.node_check import check_nodes, may_fit
from s2l_ray.placement.plan import EngineSlot, PlannedBundle, Slot, TrainerSlot
from s2l_ray.placement.ray_binding import reserve
from tests.support.killed import kill
from tests.support.logical_cluster import logical_cluster
from tests.support.patience import PATIENCE_S, until

ALL = {"CPU": 12.0, "GPU": 8.0}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with logical_cluster([4, 2, 2], cpus=4) as started:
        yield started


@pytest.fixture
def cluster(nodes: Cluster) -> Iterator[Cluster]:
    """With all of it free, before a test and after: Ray gives back what was released a moment later."""
    wait_until_free()
    yield nodes
    wait_until_free()


@ray.remote
class Who:
    def am_i(self) -> tuple[str, str]:
        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "all")


def sit(reservation, slot: Slot) -> tuple[str, str]:
    """Node and visible GPUs of an actor in that slot; the actor goes on living."""
    actor = Who.options(**reservation.options(slot, 0.5, {})).remote()
    sit.actors.append(actor)
    return ray.get(actor.am_i.remote(), timeout=PATIENCE_S)


sit.actors = []


def wait_until_free() -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (free := {name: ray.available_resources().get(name, 0.0) for name in ("CPU", "GPU")}) != ALL:
        assert time.monotonic() < deadline, free
        time.sleep(0.1)


def test_the_nodes_say_how_busy_they_are_and_nobody_waits_for_them(cluster):
    meters, found = NodeMeters(), []
    assert list(meters.after(1)) == []  # asked, and not waited for
    until(lambda: found.extend(meters.after(2)) or found)
    ((step, values),) = found
    name = f"system/{os.uname().nodename}/cpu_utilization_percentage"
    assert step == 1 and 0 <= values[name] <= 100 and len(values) >= 8
    for meter in meters._meters.values():
        kill(meter)
    until(lambda: not list(meters.after(3)) and not meters._meters)  # those that are gone are left out


def test_every_slot_has_its_own_gpus_of_its_own_bundle(cluster):
    # Plan: four trainer GPUs on node 0; a bundle of two GPUs on node 1; two single bundles on node 2.
    bundles = [
        PlannedBundle(0, (0, 1, 2, 3), {"GPU": 4, "CPU": 3}),
        PlannedBundle(1, (0, 1), {"GPU": 2, "CPU": 1}),
        PlannedBundle(2, (0,), {"GPU": 1, "CPU": 1}),
        PlannedBundle(2, (1,), {"GPU": 1, "CPU": 1}),
    ]
    reservation = reserve(bundles, PATIENCE_S)
    try:
        ranks = [sit(reservation, TrainerSlot(r, 0, (r,), 0.5)) for r in range(4)]
        beside = sit(reservation, EngineSlot("learner", 0, 0, (1,), 0.5, 0))
        engine = sit(reservation, EngineSlot("learner", 1, 1, (0, 1), 1.0, 0))
        single = [sit(reservation, EngineSlot("explorer", i, 2 + i, (0,), 1.0, 0)) for i in range(2)]
        # Half a GPU each, and yet four ranks on four GPUs of one node, in order; Ray alone would pair them up.
        assert len({node for node, _ in ranks}) == 1
        assert [gpu for _, gpu in ranks] == ["0", "1", "2", "3"]
        assert beside == ranks[1]
        assert engine[1] == "0,1" and engine[0] != ranks[0][0]
        # The two single bundles share the node that is left, in the order of its GPUs.
        assert [gpu for _, gpu in single] == ["0", "1"]
        assert {node for node, _ in single} == {n["NodeID"] for n in ray.nodes()} - {ranks[0][0], engine[0]}
    finally:
        reservation.release()
        sit.actors.clear()


def test_a_slot_without_gpus_sees_none_of_its_nodes(cluster):
    reservation = reserve([PlannedBundle(0, (), {"CPU": 2})], PATIENCE_S)
    try:
        assert sit(reservation, TrainerSlot(0, 0, (), 1.0))[1] == ""
    finally:
        reservation.release()
        sit.actors.clear()


def test_bundles_come_in_physical_order_whatever_order_they_are_asked_for_in(cluster):
    # The plan counts bundle 1 (node 0) before bundle 0 (node 1); the physical order follows the plan's count.
    bundles = [
        PlannedBundle(1, (0,), {"GPU": 1}),
        PlannedBundle(0, (1,), {"GPU": 1}),
        PlannedBundle(0, (0,), {"GPU": 1}),
    ]
    reservation = reserve(bundles, PATIENCE_S)
    try:
        keys = [(place.node, place.gpus) for place in reservation.places]
        assert keys[2] < keys[1] < keys[0]
    finally:
        reservation.release()


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ([{"GPU": 1}] * 9, r"9 GPU asked for, 8 in the cluster"),
        ([{"GPU": 6}], r"no node has 6 GPU for one bundle; nodes have 2 x \(4 CPU, 2 GPU\); 4 CPU, 4 GPU"),
        ([{"GPU": 1, "CPU": 7}], r"no node has 7 CPU, 1 GPU for one bundle"),
        # Enough in all and for each, but not together.
        ([{"GPU": 4}, {"GPU": 3}], r"the nodes cannot hold 2 bundles \(7 GPU\) together"),
    ],
)
def test_the_impossible_is_not_waited_for_and_says_what_is_short(cluster, resources, message):
    bundles = [PlannedBundle(0, tuple(range(int(r["GPU"]))), r) for r in resources]
    waits = []
    with pytest.raises(PlacementError, match=message):
        reserve(bundles, PATIENCE_S, waits.append)
    assert waits == []  # the first word would come after half a minute


def test_waiting_is_bounded_and_reported(cluster, monkeypatch):
    monkeypatch.setattr(ray_binding, "REPORT_EVERY_S", 0.5)
    held = reserve([PlannedBundle(0, (0, 1, 2, 3), {"GPU": 4})], PATIENCE_S)
    said = []
    try:
        with pytest.raises(PlacementError, match=r"waited 2 s for 1 bundles \(4 GPU\); free now: 12 CPU, 4 GPU"):
            reserve([PlannedBundle(0, (0, 1, 2, 3), {"GPU": 4})], 2, said.append)
    finally:
        held.release()
    assert len(said) >= 2 and all("of 2 s for 1 bundles (4 GPU); free now: 12 CPU, 4 GPU" in line for line in said)
    # Nothing was left behind: the same request is granted now.
    reserve([PlannedBundle(0, (0, 1, 2, 3), {"GPU": 4})], PATIENCE_S).release()


def test_an_autoscalers_nodes_are_waited_for(cluster):
    bundles = [PlannedBundle(0, tuple(range(6)), {"GPU": 6})]
    with pytest.raises(PlacementError, match="waited 1 s"):
        reserve(bundles, 1, may_grow=True)
    added = []

    def scale_up(message: str) -> None:
        added.append(cluster.add_node(num_gpus=6, num_cpus=1))

    ray_binding_report, ray_binding.REPORT_EVERY_S = ray_binding.REPORT_EVERY_S, 0.5
    try:
        reservation = reserve(bundles, PATIENCE_S, scale_up, may_grow=True)
        assert reservation.places[0].gpus == tuple("012345")
        reservation.release()
    finally:
        ray_binding.REPORT_EVERY_S = ray_binding_report
        for node in added:
            cluster.remove_node(node)


def test_live_inventory_is_what_ray_has(cluster):
    inventory = live_inventory()
    assert sorted(group.gpus for group in inventory.nodes) == [2, 2, 4]
    assert {group.gpu for group in inventory.nodes} == {"logical"}
    assert {group.cpus for group in inventory.nodes} == {4}


def test_a_bundle_whose_node_is_lost_is_found_on_the_node_that_takes_its_place(cluster):
    node = cluster.add_node(num_gpus=6, num_cpus=1)
    reservation = reserve([PlannedBundle(0, tuple(range(6)), {"GPU": 6}), PlannedBundle(1, (0,), {"GPU": 1})], 60)
    try:
        large, small = reservation.places
        assert reservation.find(0) and reservation.find(1)
        cluster.remove_node(node)
        until(lambda: not reservation.find(0))
        assert reservation.find(1) and reservation.places == [large, small]
        node = cluster.add_node(num_gpus=7, num_cpus=1)
        until(lambda: reservation.find(0))
        moved, stayed = reservation.places
        assert stayed == small and moved.node != large.node
        assert (moved.index, len(moved.gpus)) == (large.index, 6) and set(moved.gpus) <= set("0123456")
    finally:
        reservation.release()
        cluster.remove_node(node)


def test_fixed_nodes_that_are_there_are_planned_for_and_others_refused(cluster, tmp_path):
    there = sorted(live_inventory().nodes, key=lambda node: -node.gpus)
    rows = [{"gpus": node.gpus, "gpu": "logical", "cpus": 4, "memory_gb": node.memory_gb} for node in there]

    def planned_for(*nodes: dict[str, object]) -> int:
        file = tmp_path / "inventory.yaml"
        file.write_text(yaml.safe_dump({"nodes": list(nodes), "fixed": True}))
        overrides = [f"placement.inventory={file}", "cluster.start_timeout_s=1"]
        return len(nodes_to_plan_for(load_config("quickstart", overrides)).specs)

    head = cluster.add_node(num_cpus=0)  # as a head on Kubernetes: no bundle can be there, and it is none of the nodes
    try:
        assert planned_for(*rows) == 3
    finally:
        cluster.remove_node(head)
    with pytest.raises(PlacementError, match=r"\): a node has 4 CPUs instead of 8\. Give"):
        planned_for(rows[0], rows[1] | {"cpus": 8}, rows[2])
    with pytest.raises(PlacementError, match=r"a node of 2 x logical, 4 CPUs, .* GB is missing"):
        planned_for(*rows, rows[1])


def test_the_hook_of_a_worker_pod_sees_actors_at_work_and_at_rest(cluster):
    """By the titles that Ray gives their processes."""

    @ray.remote(num_cpus=0)
    class Verifier:
        def pid(self) -> int:
            return os.getpid()

        def wait(self) -> None:
            time.sleep(600)

    verifier = Verifier.remote()
    process = ray.get(verifier.pid.remote(), timeout=PATIENCE_S)
    assert process in pre_stop.actors()
    verifier.wait.remote()
    assert process in pre_stop.actors()
    ray.kill(verifier)
    assert pre_stop.wait_until_none(lambda: [pid for pid in pre_stop.actors() if pid == process], PATIENCE_S) == 0


def test_a_process_in_a_placement_group_has_its_bundles_there_and_leaves_the_group_to_whoever_made_it(cluster):
    """As a trial of Tune's has, whose first, empty bundle is none of the group's."""

    @ray.remote(num_cpus=0)
    class Trial:
        def hold(self, *bundles: PlannedBundle) -> list[tuple[int, str, tuple[str, ...]]]:
            reservation = reserve(bundles, PATIENCE_S)
            reservation.release()
            return [(place.index, place.node, place.gpus) for place in reservation.places]

    planned = [PlannedBundle(0, (0, 1), {"GPU": 2, "CPU": 0.3333}), PlannedBundle(1, (), {"CPU": 2})]
    request = PlacementGroupFactory([{}, *(bundle.resources for bundle in planned)])
    group = request.to_placement_group()
    ray.get(group.ready(), timeout=PATIENCE_S)
    (trial,) = PlacementGroupAcquiredResources(request, group).annotate_remote_entities([Trial])
    actor = trial.remote()
    try:
        found = ray.get(actor.hold.remote(*planned), timeout=PATIENCE_S)
        nodes = placement_group_table(group)["bundles_to_node_id"]
        assert [(index, node) for index, node, _ in found] == [(0, nodes[0]), (1, nodes[1])]
        assert len(found[0][2]) == 2 and found[1][2] == ()
        assert placement_group_table(group)["state"] == "CREATED"
        with pytest.raises(PlacementError, match=r"group of 2 bundles \(2\.3333 CPU, 2 GPU\), .* 1 bundles \(1 CPU\)"):
            ray.get(actor.hold.remote(PlannedBundle(0, (), {"CPU": 1})), timeout=PATIENCE_S)
    finally:
        ray.kill(actor)
        remove_placement_group(group)


def test_check_nodes_by_hand():
    nodes = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 8.0}]
    check_nodes([{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}], nodes)
    with pytest.raises(PlacementError, match="11 CPU asked for, 10 in the cluster; 2 GPU asked for, 1 in the cluster"):
        check_nodes([{"CPU": 8.0}, {"CPU": 3.0, "GPU": 2.0}], nodes)
    with pytest.raises(PlacementError, match="cannot hold 2 bundles"):
        check_nodes([{"GPU": 4.0}, {"GPU": 3.0}], [{"GPU": 4.0}, {"GPU": 2.0}, {"GPU": 2.0}])


def test_may_fit_where_first_fit_fails():
    # 3 + 3 + 2 + 2 + 2 into 7 + 5: first fit puts both threes on the seven and strands a two; 3 + 2 + 2 and 3 + 2 fit.
    assert may_fit([{"GPU": 3}] * 2 + [{"GPU": 2}] * 3, [{"GPU": 7}, {"GPU": 5}])
    assert not may_fit([{"GPU": 3}] * 3, [{"GPU": 5}, {"GPU": 5}])
    # CPUs bind too: two bundles of 3 CPUs beside 1 GPU do not go on one node of 4 CPUs and 2 GPUs.
    assert not may_fit([{"GPU": 1, "CPU": 3}] * 2, [{"GPU": 2, "CPU": 4}])
