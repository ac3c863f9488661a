"""The check of every node's files, on a real cluster one of whose nodes mounts another file system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from actors import node_files
from actors.node_files import check_node_files
from s2l_ray.config import Config, load_config
from s2l_ray.errors import PlacementError
from s2l_ray.placement.plan import EngineSlot, Layout, PhaseSlots, PlannedBundle, TrainerSlot
from s2l_ray.placement.ray_binding import Reservation, reserve
from tests.support.logical_cluster import logical_cluster
from tests.support.patience import PATIENCE_S

CLONE_FS, CLONE_NEWNS = 0x00000200, 0x00020000
BUNDLES = (PlannedBundle(0, (0, 1), {"GPU": 2}), PlannedBundle(1, (0,), {"GPU": 1}))
TRAINER, LEARNER, EXPLORER = (
    TrainerSlot(0, 0, (0,), 1.0),
    EngineSlot("learner", 0, 0, (1,), 1.0, 0),
    EngineSlot("explorer", 0, 1, (0,), 1.0, 0),
)
LAYOUT = Layout("separate", "cuda", BUNDLES, (PhaseSlots("mix", 1, 9, (TRAINER, LEARNER, EXPLORER)),), sleep=False)

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="gives a node mounts of its own")


@contextlib.contextmanager
def elsewhere(covered: Path) -> Iterator[None]:
    """For processes that this thread starts in here, `covered` is an empty directory of their own."""
    libc, here = ctypes.CDLL(None, use_errno=True), Path.cwd()
    with Path("/proc/thread-self/ns/mnt").open() as outside:
        assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        try:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", str(covered)], check=True)
            yield
        finally:
            assert libc.unshare(CLONE_FS) == 0  # from threads that were started in here
            assert libc.setns(outside.fileno(), CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
            os.chdir(here)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that one of two nodes has, with models and a run directory."""
    root = tmp_path_factory.mktemp("volume")
    for name in ("large", "small"):
        (root / name).mkdir()
        (root / name / "config.json").write_text("{}")
    (root / "run").mkdir()
    return root


@pytest.fixture(scope="module")
def nodes(volume: Path) -> Iterator[Cluster]:
    with logical_cluster([2], cpus=2) as cluster:
        with elsewhere(volume):
            cluster.add_node(num_gpus=1, num_cpus=2, object_store_memory=100 * 2**20)
        yield cluster


@pytest.fixture(scope="module")
def reservation(nodes: Cluster) -> Iterator[Reservation]:
    held = reserve(BUNDLES, PATIENCE_S)
    yield held
    held.release()


def config(folder: Path, volume: Path) -> Config:
    path = folder / "run.yaml"
    path.write_text(f"models: {{learner: {volume}/large, explorer: {volume}/small}}\ndata: {{train: x.jsonl}}\n")
    return load_config(path, {"cluster.start_timeout_s": PATIENCE_S})


def test_a_node_without_the_run_directory_and_its_models_is_refused_by_name(
    volume: Path, reservation: Reservation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(node_files, "APPEARS_WITHIN_S", 1.0)
    with pytest.raises(PlacementError) as caught:
        check_node_files(config(tmp_path, volume), LAYOUT, reservation, volume / "run")
    message, host = str(caught.value), ray.nodes()[0]["NodeManagerHostname"]
    assert message.count("node 127.0.0.1") == 1 and f"node 127.0.0.1 ({host}): run_dir: {volume}/run is not" in message
    assert f"models.explorer: {volume}/small is not there. The run directory and the models have to be" in message
    assert "ReadWriteMany" in message and list((volume / "run").iterdir()) == []


def test_what_is_the_same_on_every_node_passes(reservation: Reservation, volume: Path, tmp_path: Path):
    shared = tmp_path / "shared"
    for name in ("large", "small", "run"):
        (shared / name).mkdir(parents=True)
    check_node_files(config(tmp_path, shared), LAYOUT, reservation, shared / "run")
    with pytest.raises(
        PlacementError, match="models.(learner|explorer): .* is not there"
    ):  # recordings need no run_dir
        check_node_files(config(tmp_path, volume), LAYOUT, reservation, None)
