"""Runs side by side and as a page: numbers worked out by hand, texts that attack the page, files that are broken."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.evaluation.summary import build_summary, write_summary
from s2l_ray.experiments.report import write_results
from s2l_ray.report.charts import band, rewards_figure
from s2l_ray.report.experiment import experiment_section
from s2l_ray.report.facts import Facts, facts_of
from s2l_ray.report.page import page, write_report
from s2l_ray.report.planned import phases_of
from s2l_ray.report.reading import RunFiles, read_run, read_runs
from s2l_ray.report.samples import LONGEST, shortened
from s2l_ray.report.settings import differing, not_default
from s2l_ray.results import EvaluationRecord, SourceStats
from s2l_ray.step_log import StepLog
from s2l_ray.tuning.outcomes import StudyFacts
from tests.support.experiments import comparison
from tests.support.paths import ROOT
from tests.support.step_records import step

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
MACHINE = {"cpus": 2, "gpus": [], "python": "3.11", "platform": "Linux"}
HOSTILE = "</pre><script>alert(1)</script><img src=http://example.invalid/x onerror=alert(2)>"


def stats(rollouts: int, reward: float, tokens: int) -> SourceStats:
    return SourceStats(rollouts, reward, 10 * rollouts, tokens, 0, {"right": round(rollouts * reward)})


def evaluated(at: int, correct: list[int], samples: int = 4) -> EvaluationRecord:
    mean = sum(correct) / samples / len(correct)
    return EvaluationRecord(
        step=at,
        model="learner",
        weight_version=at,
        problems=len(correct),
        samples=samples,
        pass_at={1: mean},
        ci={1: (mean - 0.1, mean + 0.1)},
        reward=mean,
        response_tokens=40,
        correct=correct,
    )


def run_directory(folder: Path, *, after: list[int] | None, explorer_steps: int = 2, **overrides: Any) -> Path:
    """A run of four steps of 2 s, in the first ones of which the explorer samples half of each group."""
    config = load_config(QUICKSTART, {"run_dir": str(folder), "schedule.steps": 4, "schedule.mix_steps": 2} | overrides)
    folder.mkdir(parents=True)
    records = []
    for number in range(1, 5):
        sources = {"learner": stats(8, number / 8, 100)}
        if number <= explorer_steps:
            sources["explorer"] = stats(8, 0.25, 60)
        records.append(step(number, sources=sources, seconds={"total": 2.0}, zero_variance_groups=1, groups=4))
        StepLog(folder / "steps.jsonl").append(records[-1])
    (folder / "config.yaml").write_text(config.to_yaml())
    if after is not None:
        summary = build_summary(
            config=config,
            steps=records,
            before=evaluated(0, [1, 0, 2, 1]),
            after=evaluated(4, after),
            machine=MACHINE,
        )
        write_summary(folder / "summary.json", summary)
    return folder


def cells(facts: list[Facts], label: str) -> tuple[str, ...]:
    (row,) = (row for section in facts for row in section.rows if row.label == label)
    return row.cells


@pytest.fixture
def runs(tmp_path: Path) -> list[RunFiles]:
    first = run_directory(tmp_path / "first", after=[2, 0, 4, 2], name="mixed")
    second = run_directory(
        tmp_path / "second", after=[2, 1, 4, 3], explorer_steps=0, **{"name": "grpo", "schedule.kind": "off"}
    )
    return read_runs([first, second])


def test_the_numbers_are_those_of_the_records(runs: list[RunFiles]) -> None:
    facts = facts_of(runs)
    assert cells(facts, "algorithm") == ("S2L-PO: linear, T_mix = 2, G = 8", "GRPO, G = 8")
    assert cells(facts, "learner's response tokens") == ("400", "400")
    assert cells(facts, "explorer's response tokens") == ("120", "-")
    assert cells(facts, "response tokens per second") == ("65", "50")  # 520 and 400 in 8 s
    assert cells(facts, "learner's reward, first and last tenth of the steps") == ("0.125 → 0.500",) * 2
    assert cells(facts, "explorer's reward, likewise") == ("0.250 → -", "-")
    assert cells(facts, "groups without variance") == ("25.0%", "25.0%")
    assert cells(facts, "steps") == ("4 of 4", "4 of 4")
    # 8 and 10 right answers of 16, against 4 before.
    assert cells(facts, "pass@1 after") == ("50.0 [40.0, 60.0]", "62.5 [52.5, 72.5]")
    assert cells(facts, "change of pass@1")[1].startswith("+37.5 [")
    # One more right answer of four samples in two of the four problems: +12.5; bootstrap draws differ by at most 25.
    assert re.fullmatch(r"\+12\.5 \[\+0\.0, \+25\.0\]", cells(facts, "pass@1 minus mixed's")[1])
    assert {setting.key for setting in differing(runs)} == {"schedule.kind"}


def test_what_cannot_be_paired_is_not_subtracted(tmp_path: Path) -> None:
    first = run_directory(tmp_path / "a", after=[2, 0, 4, 2])
    other = run_directory(tmp_path / "b", after=[2, 1, 4, 3], **{"data.eval_limit": 4})
    labels = [row.label for section in facts_of(read_runs([first, other])) for row in section.rows]
    assert "pass@1 after" in labels and not [label for label in labels if "minus" in label]


def test_runs_of_one_name_are_told_apart_by_their_directories(tmp_path: Path) -> None:
    places = [run_directory(tmp_path / name / "run", after=None) for name in ("a", "b")]
    assert [run.name for run in read_runs(places)] == ["a/run", "b/run"]
    with pytest.raises(ConfigError, match="given more than once"):
        read_runs([places[0], places[0]])


def test_a_run_that_has_not_got_to_its_end_has_the_evaluations_of_its_newest_checkpoint(tmp_path: Path) -> None:
    folder = run_directory(tmp_path / "run", after=None)
    for number, correct in ((2, [1, 1, 1, 1]), (4, [2, 2, 2, 2])):
        (checkpoint := folder / "checkpoints" / f"step-{number:06d}").mkdir(parents=True)
        records = {"evaluations": {"before": evaluated(0, [1, 0, 2, 1]).to_json()}}
        (checkpoint / "state.json").write_text(json.dumps(records | {"during": [evaluated(number, correct).to_json()]}))
    run = read_run(folder)
    assert [record.step for record in run.learner_evaluations] == [0, 4]
    assert cells(facts_of([run]), "steps") == ("4 of 4, not finished",)


def test_the_band_is_the_interval_of_the_mean_in_a_window() -> None:
    means, half = band([1.0, 2.0, 9.0, 6.0, 1.0], [5, 5, 0, 5, 5], 3)
    assert list(means) == [1.5, 1.5, 4.0, 3.5, 3.5]
    # Of two values a and b: sd = |a - b| / sqrt(2), over sqrt(2).
    assert list(half) == pytest.approx([1.96 * 0.5, 1.96 * 0.5, 1.96 * 2.0, 1.96 * 2.5, 1.96 * 2.5])
    means, half = band([1.0, 1.0, 1.0, 1.0], [0, 0, 0, 7], 3)
    assert math.isnan(means[0]) and means[3] == 1.0 and math.isnan(half[3])
    # 1 of 1 and 1 of 3 rollouts: mean 0.5; residuals 0.5 and -1/6, times 1 and 3: sqrt((0.25 + 0.25) * 2) / 4.
    means, half = band([1.0, 1 / 3], [1, 3], 3)
    assert list(means) == pytest.approx([0.5, 0.5]) and list(half) == pytest.approx([1.96 / 4] * 2)


def test_each_file_of_held_out_problems_has_rows(tmp_path: Path) -> None:
    def with_files(record: EvaluationRecord, first: list[int]) -> EvaluationRecord:
        return replace(record, files={"aime24": evaluated(record.step, first)})

    folder = run_directory(tmp_path / "run", after=None)
    before, after = with_files(evaluated(0, [1, 0, 2, 1]), [1, 0]), with_files(evaluated(4, [2, 2, 2, 2]), [2, 2])
    steps, config = StepLog(folder / "steps.jsonl").read(), load_config(folder / "config.yaml")
    summary = build_summary(config=config, steps=steps, before=before, after=after, machine=MACHINE)
    write_summary(folder / "summary.json", summary)
    run = read_run(folder)
    explorer, *of_learner, change = cells(facts_of([run]), "aime24: pass@1 in %")
    assert (explorer, of_learner) == ("-", ["12.5 [2.5, 22.5]", "50.0 [40.0, 60.0]"])
    assert change.startswith("+37.5 [")  # of two problems that have a quarter, and a half, more right
    other = replace(run, directory=tmp_path / "other")
    assert cells(facts_of([run, other]), "aime24: pass@1 after") == ("50.0 [40.0, 60.0]",) * 2


def test_the_mean_reward_has_a_row_where_it_says_more_than_the_share_of_right_answers(tmp_path: Path) -> None:
    folder = run_directory(tmp_path / "run", after=[2, 2, 2, 2])
    run = read_run(folder)
    assert not any(row.label == "mean reward" for section in facts_of([run]) for row in section.rows)
    summary = json.loads((folder / "summary.json").read_text())
    summary["evaluation"]["after"]["reward"] = 0.625
    (folder / "summary.json").write_text(json.dumps(summary))
    graded = read_run(folder)
    assert cells(facts_of([graded]), "mean reward") == ("-", "0.250", "0.625", "-")
    both = facts_of([run, replace(graded, directory=tmp_path / "other")])
    assert cells(both, "mean reward after") == ("0.500", "0.625")


def test_the_evaluation_before_training_is_within_the_figure(tmp_path: Path) -> None:
    top = rewards_figure(read_run(run_directory(tmp_path / "run", after=[2, 2, 2, 2]))).get_axes()[0]
    (evaluations,) = top.containers
    marks, _, _ = evaluations.lines
    assert list(marks.get_xdata()) == [0, 4]
    assert top.get_xlim() == (-0.5, 4.5)


def test_the_plan_is_compared_without_the_first_steps_evaluations_and_checkpoints(runs: list[RunFiles]) -> None:
    run = runs[0]
    phases = [
        {"name": "mix", "first_step": 1, "last_step": 2, "steps": 2, "step_seconds": 1.0},
        {"name": "on-policy", "first_step": 3, "last_step": 4, "steps": 2, "step_seconds": 1.6},
    ]
    records = [step(n, seconds={"total": 2.0, "evaluate": 0.3, "checkpoint": 0.1}) for n in range(1, 5)]
    found = phases_of(RunFiles(run.directory, run.name, run.config, records, None, {"phases": phases}))
    assert [(phase.steps, phase.measured_s) for phase in found] == [("1 to 2", None), ("3 to 4", pytest.approx(1.6))]
    assert found[1].ratio == pytest.approx(1.0)


class Page(HTMLParser):
    """Tags with what they refer to, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "url")]
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_no_text_becomes_a_tag(tmp_path: Path) -> None:
    folder = run_directory(tmp_path / "run", after=[2, 0, 4, 2], name="a <b> & c")
    (folder / "rollouts").mkdir()
    row = {"prompt_id": HOSTILE, "source": "learner", "reward": 0.0, "verdict": "wrong", "detail": HOSTILE}
    row |= {"tokens": 3, "response": HOSTILE + "\x00\ud800", "question": f"Is it {HOSTILE}?", "answer": "<i>"}
    (folder / "rollouts" / "step-000001.jsonl").write_text(json.dumps(row) + "\n")
    write_report([read_run(folder)], tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found.tags.count("svg") == 1 and not {"script", "img", "link", "iframe"} & set(found.tags)
    assert all(reference.startswith("#") for reference in found.references)
    assert "a <b> & c" in found.text and f"Is it {HOSTILE}?" in found.text and "the answer is <i>" in found.text
    assert "var(--series-0)" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_several_runs_are_on_one_page(runs: list[RunFiles]) -> None:
    found = Page(page(runs))
    assert [anchor for anchor in found.references if anchor.startswith(("#r", "#d"))] == [
        "#results", "#differences", "#run-1", "#run-2"
    ]  # fmt: skip
    assert "How the configurations differ" in found.text and "mixed, grpo" in found.text


def test_settings_that_are_not_the_defaults_are_shown_with_them(runs: list[RunFiles]) -> None:
    found = {setting.key: setting.values for setting in not_default(runs[1])}
    assert found["schedule.kind"] == ("linear", "off")
    assert "run_dir" not in found


def test_a_long_response_is_cut_in_its_middle() -> None:
    assert shortened("x" * LONGEST) == "x" * LONGEST
    cut = shortened("a" * LONGEST + "b" * LONGEST)
    assert cut.startswith("a" * (LONGEST // 2) + "\n[... 3,000 characters ...]\n") and cut.endswith(
        "b" * (LONGEST // 2)
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{", "summary.json is damaged ("),
        ("summary.json", "[]", "summary.json is damaged (it is not a JSON object)"),
        ("summary.json", "{}", "not what this version of s2l-ray writes (it has no 'evaluation')"),
        ("plan.json", '{"phases": [{}]}', "not what this version of s2l-ray writes (it has no 'first_step')"),
        ("steps.jsonl", "{}\n", "steps.jsonl, line 1"),
        ("steps.jsonl", "", "no run directory with steps"),
        ("rollouts/step-000001.jsonl", "{}\n", "is no file of rollouts"),
    ],
)
def test_a_file_that_is_broken_is_one_error(tmp_path: Path, name: str, content: str, message: str, capsys) -> None:
    folder = run_directory(tmp_path / "run", after=[2, 0, 4, 2])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    assert main(["report", str(folder)]) != 0
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "kind"), [("study.yaml", "a study"), ("tune.json", "a study"), ("experiment.yaml", "an experiment")]
)
def test_a_study_is_answered_with_its_runs(tmp_path: Path, name: str, kind: str, capsys) -> None:
    (tmp_path / name).write_text("")
    for command in ("report", "compare"):
        assert main([command, str(tmp_path), str(tmp_path / "other")]) == 1
        said = capsys.readouterr().err
        assert f"{tmp_path} is {kind}, which has no steps of its own, and none of its runs has done a step here" in said
    for number in range(1, 11):
        run_directory(tmp_path / f"s_{number:05d}", after=None)
    (tmp_path / "s_00003" / "steps.jsonl").write_text("")
    assert main(["report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"give directories of its runs: {tmp_path}/s_00001, {tmp_path}/s_00002, {tmp_path}/s_00004, " in said
    assert said.endswith(f"{tmp_path}/s_00009 and 1 more\n") and not (tmp_path / "report.html").exists()


def test_the_commands_say_what_they_did(tmp_path: Path, capsys) -> None:
    first, second = (
        run_directory(tmp_path / name, after=[2, 0, 4, 2], name=name, **{"trainer.learning_rate": rate})
        for name, rate in (("slow", 1e-4), ("fast", 3e-4))
    )
    assert main(["report", str(first)]) == 0
    assert f"wrote {first / 'report.html'}" in capsys.readouterr().out.replace("\n", "")
    assert main(["compare", str(first), str(second)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"trainer\.learning_rate +0\.0001 +0\.0003", said)
    assert main(["compare", str(first)]) != 0
    assert "takes two runs or more" in capsys.readouterr().err
    with pytest.raises(DataError, match="summary"):
        (first / "summary.json").write_text("{")
        read_run(first)


def test_an_experiment_has_its_arms_tests_and_cost_on_the_page(tmp_path: Path, capsys) -> None:
    write_results(comparison(question="Does it <help>?"), StudyFacts(65.0), tmp_path, "2026-01-02T03:04:05Z")
    content = json.loads((tmp_path / "experiment.json").read_text())
    content["arms"][0]["values"]["schedule.kind"] = False  # as YAML reads the word off
    (tmp_path / "experiment.json").write_text(json.dumps(content))
    section = experiment_section(tmp_path)
    tested, cost, arms, seeds = section.tables
    assert tested.rows[1].cells == ("40.0 [15.2, 64.8]", "3", "+20.0 [-4.8, +44.8]", "0.074", "0.250", "0.074", "0.500")
    assert tested.rows[0].cells[2:] == ("-",) * 5
    assert cost.rows[1].cells == ("3", "6s", "300", "150", "30", "20.0%")
    assert arms.columns == ("schedule.kind", "objective.kl")
    assert [row.cells for row in arms.rows] == [("off", "-"), ("-", "-"), ("-", "0.1")]
    assert seeds.columns == ("seed 1", "seed 2", "seed 3") and seeds.rows[2].cells == ("10.0", "10.0", "-")
    assert "Not in the comparison: worse, seed 3 (failed): out of memory" in section.paragraphs
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 0
    found = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Does it <help>?" in found.text and found.tags.count("svg") == 1
    (tmp_path / "experiment.json").write_text(json.dumps(content | {"format": 9}))
    assert main(["report", str(tmp_path)]) != 0
    assert "format 9, this version reads 1" in " ".join(capsys.readouterr().err.split())
