"""A comparison from samples to record, tables and figure, under a tiny learner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from mlflow import MlflowClient
from rich.console import Console

from s2l_ray.benchmark.problems import load_benchmark
from s2l_ray.benchmark.settings import Options, configuration
from s2l_ray.cli import main
from s2l_ray.config import Config, TrackingConfig
from s2l_ray.diversity.comparing import compare
from s2l_ray.diversity.figure import diversity_figure
from s2l_ray.diversity.record import DiversityRecord
from s2l_ray.diversity.sources import Sampled, SampledSource, SourceKind, check_matched
from s2l_ray.diversity.table import difference_table, diversity_table, shown
from s2l_ray.errors import DataError
from s2l_ray.report.measured import diversity_section
from s2l_ray.rollouts.records import RolloutSet
from s2l_ray.run.diversity_settings import DiversitySettings
from s2l_ray.run.diversity_tracking import track
from s2l_ray.statistics import Estimate
from s2l_ray.style import STYLE
from tests.support.training_models import random_groups, write_model


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a machine that runs other tests, two threads wait for each other far longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def source(name: str, kind: SourceKind, seed: int, problems: int = 3) -> SampledSource:
    """8 samples of each problem; their text is the number of their tokens."""
    sets = []
    for group in random_groups(problems, size=8, seed=seed, rewards=[1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]):
        kept = [replace(rollout, text=str(len(rollout.token_ids))) for rollout in group.rollouts]
        sets.append(RolloutSet(group.prompt_id, np.array([1, 2, 3], np.int32), kept))
    return SampledSource(name, kind, "tiny", 1.0, sets)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    directory: Path = tmp_path_factory.mktemp("tiny")
    model = write_model("qwen3", directory / "model")
    (directory / "some.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    options = Options(samples=8, overrides=["rollout.group_size=4", "models.dtype=float32"])
    settled = configuration(model, load_benchmark(str(directory / "some.jsonl")), options)
    return settled.model_copy(update={"verifier": settled.verifier.model_copy(update={"kind": "mine:check"})})


@pytest.fixture(scope="module")
def record(config: Config) -> DiversityRecord:
    learner, hot = source("learner", "learner", 0), source("learner T=1.5", "token_level", 1)
    explorer = source("explorer tiny", "policy_level", 2)
    sampled = Sampled("some", [learner, hot, explorer], {p.prompt_id: "" for p in learner.problems}, {})
    told: list[tuple[str, int, int]] = []
    found = compare(sampled, config, "samples", edit_threshold=0.3, progress=lambda *stage: told.append(stage))
    assert {stage for stage, *_ in told} == {
        f"{one.name}: {what}"
        for one in (learner, hot, explorer)
        for what in ("edit distances", "scored by the learner", "gradients")
    }
    assert all(0 < done <= of for _, done, of in told)
    return found


def test_the_record_has_every_measure_of_every_source(record: DiversityRecord):
    values = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert [one["kind"] for one in values["sources"]] == ["learner", "token_level", "policy_level"]
    names = [set(one["measures"]) for one in values["sources"]]
    ks = (1, 2, 4, 8)
    many = ("pass", "distinct_solutions", "distinct_right_solutions", "edit_clusters")
    single = {
        "right_solutions_differ", "edit_distance", "logprob", "perplexity", "divergence", "correlation_in_problem",
        "correlation_after_prefix", "gradient_squared_norm", "gradient_variance", "gradient_variance_in_prompts",
        "gradient_snr", "gradient_noise_scale", "gradient_cosine", "empty_groups",
    }  # fmt: skip
    expected = single | {f"{name}@{k}" for name in many for k in ks}
    rest = [{name for name in of if not name.startswith(("logprob_part/", "autocorrelation@"))} for of in names]
    assert rest == [expected] * 3
    learner = values["sources"][0]["measures"]
    assert learner["pass@1"]["value"] == pytest.approx(3 / 8)
    assert learner["gradient_cosine"] is None or learner["gradient_cosine"]["value"] == pytest.approx(1)
    assert learner["empty_groups"]["value"] == 0


def test_differences_are_of_explorers_and_temperatures(record: DiversityRecord):
    assert [(d.of, d.less) for d in record.differences] == [
        ("explorer tiny", "learner T=1.5"),
        ("explorer tiny", "learner"),
        ("learner T=1.5", "learner"),
    ]
    by_name = {one.name: one.measures for one in record.sources}
    difference = record.differences[0].measures["edit_distance"]
    assert difference.value == pytest.approx(
        by_name["explorer tiny"]["edit_distance"].value - by_name["learner T=1.5"]["edit_distance"].value
    )


def test_tables_and_figure_show_every_source(record: DiversityRecord):
    console = Console(width=200, record=True)
    console.print(diversity_table(record))
    console.print(difference_table(record))
    text = console.export_text()
    for one in record.sources:
        assert one.name in text
    assert "less learner T=1.5" in text and "log-prob under the learner" in text
    with rc_context(STYLE):
        figure = diversity_figure(record)
    assert len(figure.axes) == 4
    labels = figure.legends[0].get_texts()
    assert [label.get_text() for label in labels] == [one.name for one in record.sources]


def test_a_report_has_sources_and_differences(
    record: DiversityRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "diversity.json").write_text(json.dumps(record.to_json()))
    section = diversity_section(tmp_path)
    sources, differences = section.tables
    assert sources.columns == ("learner", "learner T=1.5", "explorer tiny")
    assert differences.columns == ("explorer tiny less learner T=1.5",)
    cells = {row.label: row.cells for row in sources.rows}
    assert cells["pass@1 (%)"][0] == shown(record.sources[0].measures["pass@1"], 100)
    edit = record.differences[0].measures["edit_distance"]
    assert {row.label: row.cells[0] for row in differences.rows}["edit distance (share of tokens)"].startswith(
        shown(edit)
    )
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path), str(tmp_path)]) == 1
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "diversity.json").write_text('{"format": 1, "name": "a"}')
    assert main(["report", str(tmp_path)]) == 1
    twice, damaged = capsys.readouterr().err.splitlines()
    assert "is given more than once" in twice and "(match: missing)" in damaged
    assert html.count("<svg") == 1 and "some: 3 problems, 8 samples of each, matched samples" in html


def test_mlflow_gets_measures_and_differences_in_one_run_of_the_directory(record: DiversityRecord, tmp_path: Path):
    out = tmp_path / "compared"
    out.mkdir()
    (file := out / "diversity.json").write_text(json.dumps(record.to_json()))
    DiversitySettings(dtype="float32").write(out)
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert track(record, tracking, out, [file]) is None
    settings = DiversitySettings.read(out)
    run = MlflowClient(tracking.uri).get_run(settings.mlflow_run)
    assert settings.dtype == "float32" and (run.info.status, run.info.run_name) == ("FINISHED", "compared")
    assert run.data.metrics["some/learner/pass_at_1"] == pytest.approx(3 / 8)
    edit = record.differences[0].measures["edit_distance"]
    logged = [run.data.metrics[f"some/explorer tiny less learner T_1.5/edit_distance{end}"] for end in ("", "_low")]
    assert logged == pytest.approx([edit.value, edit.low])
    assert run.data.params["match"] == "samples" and run.data.params["objective.loss"] == "ppo"
    assert track(record, tracking, out, [file]) is None
    assert DiversitySettings.read(out) == settings
    assert track(record, TrackingConfig(enabled=False), out, [file]) is None
    assert "no answer from MLflow" in (
        track(record, TrackingConfig(uri="http://127.0.0.1:1", timeout_s=1.0), out, []) or ""
    )


def test_numbers_have_three_digits():
    assert shown(Estimate(0.5, 0.25, 1.0), 100) == "50.0 [25.0, 100]"
    assert shown(Estimate(0.00321, -1e-6, 12.345)) == "0.00321 [-1e-06, 12.3]"
    assert shown(None) == "-"


def test_sources_that_do_not_match_are_named():
    learner = source("learner", "learner", 0)
    with pytest.raises(DataError, match="explorer tiny has not the problems of learner"):
        check_matched([learner, source("explorer tiny", "policy_level", 1, problems=2)])
    fewer = replace(learner.problems[1], rollouts=learner.problems[1].rollouts[:5])
    short = replace(learner, name="hot", problems=[learner.problems[0], fewer, learner.problems[2]])
    with pytest.raises(DataError, match="hot has 5 samples of problem p1 and learner 8"):
        check_matched([learner, short])
