"""A run whose models and data are on the Hub, resumed after its branches have moved on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from s2l_ray.miniature.build import Family
from tests.support.hub_server import hub_server
from tests.support.run_settings import run_config


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.is_file()}


def test_a_run_from_the_hub_is_resumed_at_its_commits(family: Family, tmp_path: Path) -> None:
    with hub_server() as hub:
        large = hub.add("models", "tiny/large", files_in(family.large))
        small = hub.add("models", "tiny/small", files_in(family.small))
        data = hub.add("datasets", "tiny/sums", {"train.jsonl": Path(family.train).read_bytes()})
        settings = run_config(family, tmp_path / "run") | {
            "models.learner": "tiny/large",
            "models.explorer": "tiny/small",
            "data.train": "hf://datasets/tiny/sums:train",
            "data.eval": None,
            "data.eval_limit": None,
            "tracking.enabled": False,
            "schedule.steps": 2,
            "schedule.mix_steps": 1,
            "checkpoint.every": 1,
        }

        def train() -> str:
            values = [f"{key}={'null' if value is None else value}" for key, value in settings.items()]
            command = [sys.executable, "-m", "s2l_ray", "train", "quickstart", *values]
            variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
            done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert "fetching tiny/large from the Hub" in train()
        config = (tmp_path / "run" / "config.yaml").read_text()
        assert f"learner: tiny/large@{large}" in config
        assert f"train: hf://datasets/tiny/sums@{data}:train" in config
        plan = json.loads((tmp_path / "run" / "plan.json").read_text())
        assert plan["models"] == {"learner": f"tiny/large@{large}", "explorer": f"tiny/small@{small}"}
        fetched = hub.downloads()

        hub.add("models", "tiny/large", files_in(family.large) | {"model.safetensors": b"another model"})
        hub.add("datasets", "tiny/sums", {"train.jsonl": b'{"question": "1", "answer": "1"}\n'})
        (tmp_path / "run" / "summary.json").unlink()  # as if the run had been killed in its second step
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000002")
        assert "resumed after step 1" in train()
        assert f"learner: tiny/large@{large}" in (tmp_path / "run" / "config.yaml").read_text()
        assert hub.downloads() == fetched
