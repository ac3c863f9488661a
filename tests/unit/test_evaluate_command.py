"""`s2l evaluate` where nothing is left to sample, so that no engine starts; tests/runs/test_evaluate.py samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.benchmark.directory import EvaluationDirectory, settings_of
from s2l_ray.benchmark.jobs import Job, make_jobs
from s2l_ray.benchmark.models import find_models
from s2l_ray.benchmark.problems import load_benchmarks
from s2l_ray.benchmark.settings import Options
from s2l_ray.cli import main
from s2l_ray.config.embedded import DIRECTORY
from s2l_ray.rollouts.records import Rollout, RolloutSet, Verdict

SAMPLES = 4


def record(job: Job, share: int) -> None:
    """Samples of which the first `share` of each problem are right."""
    plan = job.plan()
    bank = RolloutBank(plan.settings, {prompt.id: prompt for prompt in job.prompts})
    for request in plan.requests:
        rows = []
        for index in range(request.count):
            right = index < share
            verdict = Verdict("right" if right else "wrong", float(right), "1")
            ids, logprobs = np.zeros(3, np.int32), np.zeros(3, np.float32)
            rows.append(Rollout(request.prompt_id, "explorer", "m", 0, index, ids, logprobs, "t", "stop", verdict))
        bank.record(request, RolloutSet(request.prompt_id, np.zeros(1, np.int32), rows))
    bank.close()


@pytest.fixture
def problems(tmp_path: Path) -> list[str]:
    """Two files of countdown problems."""
    lines = (DIRECTORY / "heldout.jsonl").read_text().splitlines()
    for name, of in (("one", lines[:6]), ("two", lines[6:10])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(of) + "\n")
    return [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")]


@pytest.fixture
def out(tmp_path: Path, problems: list[str]) -> Path:
    """A directory that has every sample of both models of the embedded family on both files."""
    out = tmp_path / "out"
    directory = EvaluationDirectory(out)
    for model, share in zip(find_models(["embedded:small", "embedded:large"], out), (1, 3), strict=True):
        for job in make_jobs(model, load_benchmarks(problems), Options(SAMPLES), out, clip=False):
            settled = job.with_dtype("float32")
            record(settled, share)
            directory.agree(settings_of(model.label, job.benchmarks, settled.fingerprint))
    directory.save()
    return out


def evaluate(problems: list[str], out: Path, *words: str) -> int:
    models = ["embedded:small", "embedded:large"]
    fixed = ["--samples", str(SAMPLES), "--to", str(out), "tracking.enabled=false"]
    return main(["evaluate", *models, "--benchmark", *problems, *fixed, *words])


def test_what_is_there_is_not_sampled_again(problems, out, capsys):
    training = str(DIRECTORY / "train.jsonl")
    assert evaluate(problems, out, "evaluation.k=[1,2]", "--against", training, problems[0]) == 0
    said = capsys.readouterr().out
    assert "all samples are there already" in said and "one: 6 problems x 4 samples" in said
    assert "pass@2" in said and "one: none of its 6 problems is in embedded:train.jsonl" in said
    assert f"one: of its 6 problems 6 are in {problems[0]}" in said
    found = json.loads((out / "evaluation.json").read_text())
    small, large = (row for row in found["results"] if row["benchmark"] == "one")
    assert (small["pass_at"]["1"]["value"], large["pass_at"]["1"]["value"]) == (0.25, 0.75)
    assert small["source"] == "embedded:small" and small["maj_at"] is None and small["correct"]["one/heldout-0"] == 1
    assert found["settings"]["seed"] == 1 and found["k"] == [1, 2, 4]
    assert [pair["difference"]["1"]["p"] for pair in found["pairs"]] == [2 / 2**6, 2 / 2**4]
    assert (out / "pass_at_k.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation.sampling.top_p=0.8"], "evaluation.sampling.top_p: was 1.0, is 0.8. Evaluate into another"),
        (
            ["rollout.max_tokens=19"],
            "small on one: rollout.max_tokens: was 20, is 19; small on two: rollout.",
        ),
        (["seed=2"], "seed: was 1, is 2"),
    ],
)
def test_a_changed_setting_is_refused_before_anything_starts(problems, out, capsys, words, message):
    assert evaluate(problems, out, *words) == 1
    assert message in capsys.readouterr().err


def test_a_changed_benchmark_is_refused(problems, out, capsys):
    lines = Path(problems[0]).read_text().splitlines()
    Path(problems[0]).write_text("\n".join(lines[:-1]) + "\n")
    assert evaluate(problems, out) == 1
    assert "one: content: was " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1", "--benchmark", "embedded:heldout.jsonl"], "give at least one MODEL beside seed=1"),
        (["/none", "--benchmark", "embedded:heldout.jsonl"], "MODEL: the directory /none does not exist"),
        (["embedded:small", "--benchmark", "none.jsonl"], "none.jsonl does not exist"),
        (
            ["embedded:small", "--benchmark", "embedded:heldout.jsonl", "evaluation.k=[1,32]"],
            "samples (16) must be at least the largest k (32)",
        ),
        (["embedded:small", "--benchmark", "embedded:heldout.jsonl", "--settings", "think"], "has 1024 positions"),
        (["embedded:small", "--benchmark", "embedded:heldout.jsonl", "--samples", "5000"], "at most 4096 of a problem"),
    ],
)
def test_errors_come_early_and_leave_nothing(words, message, tmp_path, capsys):
    assert main(["evaluate", *words, "--to", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
