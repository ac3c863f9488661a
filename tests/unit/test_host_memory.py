"""How much host memory is left: of the machine, and of the container."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.machine import host_memory


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:       100 kB\nMemFree:   1 kB\nMemAvailable:         40 kB\n")
    return tmp_path


def limited(machine: Path, limit: str) -> None:
    (machine / "memory.max").write_text(f"{limit}\n")
    (machine / "memory.current").write_text("30000\n")
    (machine / "memory.stat").write_text("anon 20000\ninactive_file 5000\nactive_file 5000\n")


def test_it_is_what_the_machine_has_available(machine: Path):
    assert host_memory.available_bytes() == 40 * 1024


@pytest.mark.parametrize(("limit", "left"), [("50000", 25000), ("max", 40960), ("20000", 0), ("1000000", 40960)])
def test_a_container_has_what_its_limit_leaves(limit: str, left: int, machine: Path):
    limited(machine, limit)
    assert host_memory.available_bytes() == left


def test_this_machine_has_some():
    assert host_memory.available_bytes() > 2**20
