"""`s2l diversity` on the embedded family: real samples, measured under the real learner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from s2l_ray.cli import main
from s2l_ray.run.diversity import temperature_stream
from s2l_ray.run.diversity_settings import DiversitySettings

FEW = ["--limit", "16", "--samples", "16", "rollout.group_size=4"]
MODELS = ["embedded:large", "embedded:small"]


def compare(directory: Path, *words: str) -> dict[str, Any]:
    command = ["diversity", *MODELS, *words, "--benchmark", "embedded:heldout.jsonl", "--to", str(directory), *FEW]
    assert main(command) == 0
    record: dict[str, Any] = json.loads((directory / "diversity.json").read_text())
    return record


def test_temperatures_do_not_share_random_numbers() -> None:
    models = range(100)  # the learner and its explorers
    assert len({*models, *map(temperature_stream, (0.1, 1.2, 1.4999, 1.5))}) == 104


def test_an_objective_without_gradients_of_prompts_is_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["diversity", *MODELS, "--benchmark", "embedded:heldout.jsonl", "--to", str(tmp_path / "d"), *FEW]
    assert main([*command, "objective.kl=0.1"]) == 1
    assert "objective.kl: the gradient is measured at the reference itself" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


@pytest.mark.long
def test_explorers_and_temperatures_are_compared_and_samples_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = compare(tmp_path, "--hot", "1.5")
    learner, hot, explorer = first["sources"]
    assert [one["name"] for one in first["sources"]] == ["learner", "learner T=1.5", "explorer small"]
    assert learner["noise_temperature"] == pytest.approx(1, abs=0.12)
    assert hot["noise_temperature"] == pytest.approx(1.5, abs=0.2)
    assert abs(learner["measures"]["divergence"]["value"]) < 0.01  # engines and this process compute the same
    assert explorer["measures"]["logprob"]["value"] < learner["measures"]["logprob"]["value"]
    after_prefix = [one["measures"]["correlation_after_prefix"] for one in (learner, hot, explorer)]
    assert after_prefix[2]["low"] > 0
    assert max(abs(one["value"]) for one in after_prefix[:2]) < after_prefix[2]["value"]
    assert (tmp_path / "diversity.png").stat().st_size > 10_000
    assert "explorer small" in capsys.readouterr().out

    assert compare(tmp_path, "--hot", "1.5") == first
    assert "sampling" not in capsys.readouterr().out

    run = MlflowClient(f"sqlite:///{tmp_path.parent}/mlflow.db").get_run(DiversitySettings.read(tmp_path).mlflow_run)
    assert run.info.status == "FINISHED" and run.data.params["objective.loss"] == "ppo"
    assert run.data.metrics["heldout/explorer small/pass_at_1"] == pytest.approx(
        explorer["measures"]["pass@1"]["value"]
    )
    logged = run.data.metrics["heldout/explorer small less learner T_1.5/edit_distance_low"]
    assert logged == pytest.approx(first["differences"][0]["measures"]["edit_distance"]["low"])
    assert {"match": "samples", "problems": "16"}.items() <= run.data.params.items()

    matched = compare(tmp_path, "--match", "pass_at_1", "--tolerance", "0.1")
    (match,) = matched["matches"]
    assert match["within"] and abs(match["pass_at_1"] - match["wanted"]) <= 0.1
    assert matched["sources"][0] == learner
    assert matched["sources"][2] == explorer
