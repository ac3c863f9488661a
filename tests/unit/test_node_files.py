from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from s2l_ray.errors import DiskError
from s2l_ray.placement.node_files import ModelListing, NodeFiles, Token, token_in
from tests.support.patience import PATIENCE_S


def model_in(folder: Path, weights: bytes = b"12345") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("not read by any actor")
    return folder


def test_a_node_that_shares_the_run_directory_has_no_problems_and_nothing_stays(tmp_path: Path):
    with token_in(tmp_path) as token:
        assert NodeFiles(token).problems(timeout_s=0) == []
        assert [path.name for path in tmp_path.iterdir()] == [Path(token.path).name]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_the_same_name_that_is_another_one_is_named(tmp_path: Path):
    mine = Token(str(tmp_path / ".seen-1"), "text")
    problem = f"run_dir: {tmp_path} is not the directory that the driver writes to"
    assert NodeFiles(mine).problems(timeout_s=0) == [problem]
    (tmp_path / ".seen-1").write_text("of another driver")
    assert NodeFiles(mine).problems(timeout_s=0) == [problem]


def test_a_token_that_appears_late_is_waited_for(tmp_path: Path):
    late = Token(str(tmp_path / ".seen-1"), "text")
    timer = threading.Timer(0.3, lambda: (tmp_path / ".seen-1").write_text("text"))
    timer.start()
    assert NodeFiles(late).problems(timeout_s=PATIENCE_S) == []
    timer.join()


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system")
def test_a_directory_that_a_node_mounts_read_only_is_named(tmp_path: Path):
    with token_in(tmp_path) as token:
        code = (
            "from s2l_ray.placement.node_files import NodeFiles, Token\n"
            f"print(NodeFiles(Token({token.path!r}, {token.text!r})).problems(0))"
        )
        mounted = f'mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec $0 -c "$1"'
        command = ["unshare", "--mount", "sh", "-c", mounted, os.sys.executable, code]
        found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert "cannot be written to (Read-only file system)" in found.stdout


def test_a_run_directory_that_the_driver_cannot_write_to_is_a_disk_error(tmp_path: Path):
    with pytest.raises(DiskError, match="nowhere"), token_in(tmp_path / "nowhere"):
        pass


def test_what_a_node_lacks_of_a_model_is_named(tmp_path: Path):
    here = ModelListing.of("models.learner", model_in(tmp_path / "driver"))
    assert here.sizes == {"config.json": 2, "model.safetensors": 5}

    def problems(directory: Path) -> list[str]:
        return NodeFiles(models=(ModelListing(here.key, str(directory), here.sizes),)).problems(0)

    assert problems(tmp_path / "driver") == []
    assert problems(tmp_path / "none") == [f"models.learner: {tmp_path}/none is not there"]
    partial = model_in(tmp_path / "partial")
    (partial / "model.safetensors").unlink()
    assert problems(partial) == [f"models.learner: {partial} lacks model.safetensors"]
    other = model_in(tmp_path / "other", b"123456")
    expected = f"models.learner: {other} has other files than the driver's node (model.safetensors)"
    assert problems(other) == [expected]
