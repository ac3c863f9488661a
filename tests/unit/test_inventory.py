"""Inventories: what is filled in, and errors that name file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.errors import PlacementError
from s2l_ray.placement.gpu_types import canonical_name
from s2l_ray.placement.inventory import Inventory, load_inventory
from tests.support.paths import ROOT

GB = 10**9
SHIPPED = ROOT / "cluster" / "inventories"


def write(path: Path, text: str) -> Path:
    file = path / "nodes.yaml"
    file.write_text(text)
    return file


def test_a_known_gpu_fills_in_the_data_sheet(tmp_path: Path) -> None:
    inventory = load_inventory(write(tmp_path, "nodes: [{count: 2, gpus: 8, gpu: H100-80GB}]"))
    assert inventory.gpus == 16 and len(inventory.specs) == 2
    spec = inventory.specs[1]
    assert (spec.gpus, spec.cpus, spec.memory_bytes) == (8, 128, 1024 * GB)
    assert spec.gpu_memory_bytes == 84_900_000_000
    assert (spec.flops, spec.hbm, spec.intra, spec.pcie) == (989e12, 3350 * GB, 450 * GB, 64 * GB)
    assert spec.inter == 8 * 50 * GB  # a 400 Gb/s card per GPU
    assert inventory.describe() == "2 nodes of 8 x H100-80GB"


def test_what_is_given_wins(tmp_path: Path) -> None:
    text = "nodes: [{gpus: 4, gpu: L4, gpu_memory_gb: 20, gpu_tflops: 50, inter_node_gb_s: 3, cpus: 8, memory_gb: 64}]"
    spec = load_inventory(write(tmp_path, text)).specs[0]
    assert (spec.gpu_memory_bytes, spec.flops, spec.inter) == (20 * GB, 50e12, 3 * GB)
    assert (spec.cpus, spec.memory_bytes) == (8, 64 * GB)
    assert spec.hbm == 300 * GB  # the L4's


@pytest.mark.parametrize(("memory", "like"), [(80, "A100-80GB"), (24, "L4"), (140, "H200"), (48, "L40S")])
def test_memory_alone_is_enough_and_says_what_was_assumed(memory: int, like: str) -> None:
    """Nearest in memory; of the 84.9 GB cards the A100 has the lowest FLOP rate, of the 23.6 GB ones the A10G."""
    inventory = Inventory.of([{"count": 1, "gpus": 8, "gpu_memory_gb": memory}])
    like = {"L4": "A10G"}.get(like, like)
    assert inventory.nodes[0].assumed == like
    assert inventory.specs[0].gpu_memory_bytes == memory * GB
    assert inventory.specs[0].flops == {"A100-80GB": 312e12, "A10G": 70e12, "H200": 989e12, "L40S": 362e12}[like]


def test_an_unknown_gpu_with_all_its_figures() -> None:
    figures = {"gpu_memory_gb": 96, "gpu_tflops": 500, "hbm_gb_s": 4000, "intra_node_gb_s": 200}
    inventory = Inventory.of([{"gpus": 8, "gpu": "MyCard", **figures}])
    assert inventory.specs[0].gpu == "MyCard" and inventory.specs[0].hbm == 4000 * GB
    assert inventory.nodes[0].assumed is None


def test_cpu_nodes_and_logical_gpus_have_a_cores_rates() -> None:
    cpu, logical = Inventory.of(
        [{"gpus": 0, "cpus": 4, "memory_gb": 16}, {"gpus": 8, "gpu": "logical", "cpus": 2, "memory_gb": 24}]
    ).specs
    assert (cpu.gpu, cpu.cpus, cpu.memory_bytes, cpu.real_gpus) == (None, 4, 16 * GB, False)
    assert (logical.gpu, logical.gpu_memory_bytes, logical.real_gpus) == ("logical", 3 * GB, False)
    assert cpu.flops == logical.flops == 50e9


def test_nodes_without_gpus_keep_their_cpus() -> None:
    spec = Inventory.of([{"gpus": 8, "gpu": "H100", "cpus": 96, "memory_gb": 500}]).specs[0].without_gpus()
    assert (spec.gpus, spec.cpus, spec.memory_bytes, spec.flops) == (0, 96, 500 * GB, 50e9)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("nodes: [{gpus: 8, gpu: H1000}]", ["nodes.0", "did you mean H100", "A100-40GB", "gpu_tflops"]),
        ("nodes: [{gpus: 8, gpuz: H100}]", ["nodes.0.gpuz", "unknown key", "did you mean 'gpu"]),
        ("nodes: [{count: 2}]", ["nodes.0.gpus"]),
        ("nodes: [{gpus: 8}]", ["nodes.0", "gpu_memory_gb is missing"]),
        ("nodes: [{gpus: 0}]", ["nodes.0", "needs cpus"]),
        ("nodes: [{gpus: 0, cpus: 4, gpu: L4}]", ["gpu is given, but gpus is 0"]),
        ("nodes: [{gpus: 8, gpu: L4, count: 0}]", ["nodes.0.count"]),
        ("nodes: []", ["nodes"]),
        ("[1, 2]", ["mapping"]),
        ("nodes: [", ["not valid YAML"]),
        ("nodes: " + "[" * 2000, ["not valid YAML", "nested more than 100 levels"]),
        ("x: !!timestamp 2024-13-45", ["not valid YAML", "month"]),
        ("nodes: [{gpus: 0, cpus: 4, count: 1000000000}]", ["nodes.0.count", "10000"]),
        ("nodes: [{gpus: 0, cpus: .inf}]", ["nodes.0.cpus", "finite"]),
        ("nodes: [{gpus: 0, cpus: 4, memory_gb: .inf}]", ["nodes.0.memory_gb", "finite"]),
        ("nodes: [{gpus: 1, gpu: L4}]\nefficiency: {train: 1.5}", ["efficiency.train"]),
        (
            "nodes: [{gpus: 1, gpu: L4}]\nefficiency: {trian: 0.5}",
            ["efficiency.trian", "unknown key", "did you mean 'train'"],
        ),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = write(tmp_path, text)
    with pytest.raises(PlacementError) as error:
        load_inventory(file)
    for part in [str(file), *parts]:
        assert part in str(error.value)
    assert "is empty" not in str(error.value) or text == "nodes: []"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match="nowhere.yaml does not exist; s2l-ray ships"):
        load_inventory(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("A100", "A100-40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA H200", "H200"),
        ("h100", "H100-80GB"),
    ],
)
def test_names_of_ray_and_torch(name: str, known: str) -> None:
    assert canonical_name(name) == known


@pytest.mark.parametrize(("name", "gpus"), [("8xH100", 8), ("2x8xH100", 16), ("8x24GB", 8)])
def test_shipped_inventories_load(name: str, gpus: int) -> None:
    assert load_inventory(SHIPPED / f"{name}.yaml").gpus == gpus
