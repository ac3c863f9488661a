"""A run whose models and data are on the Hub, ended by SIGTERM and resumed after its branches have moved on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from s2l_ray.miniature.build import Family
from s2l_ray.timing import read_trace
from tests.support.hub_server import hub_server
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import (
    mlflow_of,
    newest_checkpoint,
    output_of,
    processes_of,
    read_until,
    start_train,
)


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.is_file()}


@pytest.mark.long
def test_a_run_from_the_hub_that_is_told_to_end_leaves_nothing_and_is_resumed_at_its_commits(
    family: Family, tmp_path: Path
) -> None:
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
            "schedule.steps": 500,
            "schedule.mix_steps": 1,
            "checkpoint.every": 1,
        }
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

        process = start_train(settings, tmp_path, in_background=True, **places)
        read_until(process, "fetching tiny/large from the Hub")
        read_until(process, "step 2/")
        process.terminate()  # as `ray job stop` and Kubernetes do: to the program alone
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in output
        assert "the same command goes on" in output
        assert processes_of(tmp_path) == []
        assert mlflow_of(tmp_path / "run")[1].info.status == "KILLED"

        config = (tmp_path / "run" / "config.yaml").read_text()
        assert f"learner: tiny/large@{large}" in config
        assert f"train: hf://datasets/tiny/sums@{data}:train" in config
        plan = json.loads((tmp_path / "run" / "plan.json").read_text())
        assert plan["models"] == {"learner": f"tiny/large@{large}", "explorer": f"tiny/small@{small}"}
        fetched, done = hub.downloads(), newest_checkpoint(tmp_path / "run")
        assert done >= 1

        hub.add("models", "tiny/large", files_in(family.large) | {"model.safetensors": b"another model"})
        hub.add("datasets", "tiny/sums", {"train.jsonl": b'{"question": "1", "answer": "1"}\n'})
        process = start_train(settings | {"schedule.steps": done + 1}, tmp_path, **places)
        assert f"resumed after step {done}" in output_of(process)
        assert f"learner: tiny/large@{large}" in (tmp_path / "run" / "config.yaml").read_text()
        assert hub.downloads() == fetched
        spans = read_trace(tmp_path / "run" / "trace.json")
        assert [span.step for span in spans if span.name == "step"] == list(range(1, done + 2))
