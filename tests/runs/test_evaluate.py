"""`s2l evaluate` from engines to results: two models at one time, two benchmarks, resumed, refused, and in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2l_ray.benchmark.directory import EvaluationDirectory
from s2l_ray.benchmark.samples import read_rollouts
from s2l_ray.cli import main
from s2l_ray.config.embedded import DIRECTORY
from s2l_ray.miniature.countdown import check


@pytest.fixture
def problems(tmp_path: Path) -> list[str]:
    lines = (DIRECTORY / "heldout.jsonl").read_text().splitlines()
    for name, of in (("one", lines[:12]), ("two", lines[12:16])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(of) + "\n")
    return [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")]


@pytest.mark.long
def test_an_evaluation_samples_what_is_missing_and_nothing_twice(problems, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "outputs" / "family"
    command = ["evaluate", "embedded:small", "embedded:large", "--benchmark", *problems, "--to", str(out)]
    assert main([*command, "--samples", "4"]) == 0
    said = capsys.readouterr().out
    assert "128 samples to draw" in said and "small on one and two (1 engine), large on one and two (1 engine)" in said
    first = {(e.model, e.benchmark): read_rollouts(out, e) for e in EvaluationDirectory(out).evaluations}
    assert {key: sum(map(len, of.values())) for key, of in first.items()} == {
        (model, name): count for model in ("small", "large") for name, count in (("one", 48), ("two", 16))
    }
    questions = {row["id"]: row["question"] for row in map(json.loads, (DIRECTORY / "heldout.jsonl").open())}
    for rollout in (rollout for of in first.values() for rollouts in of.values() for rollout in rollouts):
        verdict = check(rollout.text, questions[rollout.prompt_id.partition("/")[2]])
        assert rollout.judged.status == verdict.status and (rollout.logprobs <= 0).all()

    assert main([*command, "--samples", "8"]) == 0
    assert "128 samples to draw; 128 are there already" in capsys.readouterr().out
    found = json.loads((out / "evaluation.json").read_text())
    for evaluation in EvaluationDirectory(out).evaluations:
        now = read_rollouts(out, evaluation)
        assert {len(rollouts) for rollouts in now.values()} == {8}
        before = first[evaluation.model, evaluation.benchmark]
        assert all(now[p][i].text == rollout.text for p in before for i, rollout in enumerate(before[p]))
        (row,) = [
            r for r in found["results"] if (r["model"], r["benchmark"]) == (evaluation.model, evaluation.benchmark)
        ]
        assert row["correct"] == {p: sum(r.judged.status == "right" for r in rs) for p, rs in now.items()}
    _check_mlflow(out, found)

    assert main([*command, "--samples", "8", "evaluation.sampling.temperature=0.5"]) == 1
    assert "evaluation.sampling.temperature: was 1.0, is 0.5" in capsys.readouterr().err


def _check_mlflow(out: Path, found: dict) -> None:
    """One run of both commands, with the newest results."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out.parent / 'mlflow.db'}")
    run = client.get_run(EvaluationDirectory(out).mlflow_run)
    assert run.info.status == "FINISHED" and run.data.params["seed"] == "1"
    large = next(r for r in found["results"] if (r["model"], r["benchmark"]) == ("large", "one"))
    assert run.data.metrics["one/large/pass_at_8"] == pytest.approx(large["pass_at"]["8"]["value"])
    history = client.get_metric_history(run.info.run_id, "one/large/pass_at_1")
    assert [point.step for point in history] == [4, 8]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"evaluation.json", "pass_at_k.png"}
