"""What the staging Job of `cluster/` downloads is what a run finds that cannot reach the Hub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.hub_server import hub_server
from tests.support.paths import ROOT

MODEL, DATASET = "org/small", "org/problems"
OFFLINE = f"""
from s2l_ray.hub.fetching import cached_split, fetch_model
from s2l_ray.hub.names import dataset_split, model_repository

print(fetch_model(model_repository("{MODEL}"), print, 5.0).repository)
print(cached_split(dataset_split("hf://datasets/{DATASET}/data/train.jsonl"))[0].read_text())
"""


def test_a_staged_model_and_data_set_are_found_without_the_hub(tmp_path: Path):
    lists = tmp_path / "lists"
    lists.mkdir()
    shutil.copy(ROOT / "cluster" / "staging" / "stage.sh", lists)
    (lists / "models").write_text(f"# a comment\n\n{MODEL} main\n")
    (lists / "datasets").write_text(f"{DATASET}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    with hub_server() as hub:
        commit = hub.add("models", MODEL, {"config.json": b"{}", "model.safetensors": b"w", "old.pth": b"w"})
        hub.add("datasets", DATASET, {"README.md": b"# Problems", "data/train.jsonl": b'{"question": "1+1"}'})
        command = ["bash", "-euo", "pipefail", lists / "stage.sh"]
        staged = subprocess.run(
            command, env=environment | {"HF_ENDPOINT": hub.url}, capture_output=True, text=True, timeout=120
        )
        assert staged.returncode == 0, staged.stderr
        assert sorted(hub.downloads()) == ["README.md", "config.json", "model.safetensors", "train.jsonl"]
    assert staged.stdout.splitlines()[0] == f"model {MODEL}, revision main"
    found = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert found.stdout.splitlines() == [f"{MODEL}@{commit}", '{"question": "1+1"}'], found.stderr


def test_a_model_that_the_hub_has_not_fails_the_job(tmp_path: Path):
    shutil.copy(ROOT / "cluster" / "staging" / "stage.sh", tmp_path)
    (tmp_path / "models").write_text("org/missing\n")
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    with hub_server() as hub:
        environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}
        command = ["bash", "-euo", "pipefail", tmp_path / "stage.sh"]
        staged = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert staged.returncode != 0
    assert "org/missing" in staged.stdout + staged.stderr
