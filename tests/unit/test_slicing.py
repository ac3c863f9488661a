"""The part of an inventory that a run is planned for, on inventories of which each slice is worked out by hand."""

from __future__ import annotations

import pytest

from s2l_ray.config import PlacementConfig
from s2l_ray.errors import PlacementError
from s2l_ray.placement.inventory import Inventory, NodeSpec
from s2l_ray.placement.slicing import slice_of

GB = 10**9
H100 = {"gpus": 8, "gpu": "H100-80GB", "cpus": 96, "memory_gb": 1000}
L4 = {"gpus": 4, "gpu": "L4", "cpus": 48, "memory_gb": 200}
CPU = {"gpus": 0, "cpus": 64, "memory_gb": 256}


def sliced(*rows: dict, nodes: int | None = None, cpus: float | None = None) -> tuple[NodeSpec, ...]:
    return slice_of(Inventory.of(rows), PlacementConfig(nodes=nodes, cpus=cpus)).specs


def test_without_the_keys_it_is_the_whole_cluster():
    inventory = Inventory.of([H100, CPU])
    assert slice_of(inventory, PlacementConfig()) is inventory


@pytest.mark.parametrize(
    ("nodes", "gpu", "cpus"),
    [
        (1, "H100-80GB", 96),  # of the kind with the most GPUs
        (2, "L4", 48),  # there is one node of H100s; of L4s there are two, in two rows
        (3, None, 64),  # nodes without GPUs; of those with 128 CPUs there are only two
    ],
)
def test_nodes_are_alike_and_the_largest_of_which_there_are_so_many(nodes: int, gpu: str | None, cpus: float):
    large = {"count": 2, "gpus": 0, "cpus": 128, "memory_gb": 100}
    found = sliced(CPU | {"count": 3}, L4, H100, large, L4, nodes=nodes)
    assert [(node.gpu, node.cpus) for node in found] == [(gpu, cpus)] * nodes


def test_of_nodes_with_as_many_gpus_those_with_more_cpus_are_taken():
    assert [node.cpus for node in sliced(L4, L4 | {"cpus": 96}, nodes=1)] == [96]


def test_nodes_that_differ_in_memory_alone_are_alike_and_count_as_the_smallest():
    """Ray finds a little more or less memory on each, and which of them a run gets is not known."""
    rows = [L4 | {"memory_gb": memory} for memory in (203.5, 198.25, 200)]
    assert [node.memory_bytes for node in sliced(*rows, nodes=2)] == [198_250_000_000] * 2
    logical = [{"gpus": 2, "gpu": "logical", "cpus": 4, "memory_gb": memory} for memory in (16, 15)]
    assert [node.gpu_memory_bytes for node in sliced(*logical, nodes=2)] == [7.5 * GB] * 2  # half of a node's memory
    cards = [L4, L4 | {"gpu_memory_gb": 48}]
    with pytest.raises(PlacementError, match="no 2 nodes that are alike"):
        sliced(*cards, nodes=2)


def test_rates_that_were_given_stay():
    (node,) = sliced(CPU | {"inter_node_gb_s": 3}, nodes=1)
    assert node.inter == 3 * GB
    efficiency = {"train": 0.25}
    inventory = Inventory.of([H100, L4], efficiency=efficiency)
    assert slice_of(inventory, PlacementConfig(nodes=1)).efficiency.train == 0.25


def test_more_nodes_than_there_are_is_an_error_that_says_what_there_is():
    said = "placement.nodes is 3, .* has 2 nodes of 8 x H100-80GB, 1 node of 4 x L4. Lower placement.nodes"
    with pytest.raises(PlacementError, match=said):
        sliced(H100 | {"count": 2}, L4, nodes=3)


def test_cpus_are_a_part_of_one_node_with_its_share_of_the_memory():
    (node,) = sliced(CPU, cpus=16)  # a quarter of 64 CPUs and of 256 GB
    assert (node.gpus, node.cpus, node.memory_bytes) == (0, 16, 64 * GB)
    (half,) = sliced({"gpus": 0, "cpus": 2, "memory_gb": 10}, cpus=0.5)
    assert (half.cpus, half.memory_bytes) == (0.5, 2.5 * GB)


def test_cpus_are_those_of_nodes_without_gpus_where_one_has_so_many():
    small = {"gpus": 0, "cpus": 8, "memory_gb": 8}
    assert [node.memory_bytes for node in sliced(H100, CPU, small, cpus=8)] == [8 * GB]  # of CPU: 32
    assert [node.memory_bytes for node in sliced(H100, CPU, small, cpus=16)] == [64 * GB]
    (node,) = sliced(H100, small, cpus=48)  # half of a node whose GPUs others may have
    assert (node.gpus, node.cpus, node.memory_bytes) == (0, 48, 500 * GB)


def test_more_cpus_than_the_largest_node_has_are_an_error_that_says_what_there_is():
    said = "placement.cpus is 65, but the largest node has 64 CPUs: the cluster has 2 nodes of 64 CPUs"
    with pytest.raises(PlacementError, match=said):
        sliced(CPU | {"count": 2}, cpus=65)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"nodes": 1, "cpus": 2}, "nodes and cpus are both given"),
        ({"cpus": 2, "device": "gpu"}, "cpus plans for no GPUs, but device is gpu"),
        ({"nodes": 0}, "greater than 0"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict, said: str):
    with pytest.raises(ValueError, match=said):
        PlacementConfig(**keys)
