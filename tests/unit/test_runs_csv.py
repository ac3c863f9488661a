"""runs.csv: what it holds, that an experiment is compared from it as from its runs, and what of it is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from s2l_ray.compute import Compute
from s2l_ray.errors import ConfigError
from s2l_ray.experiments.arms import runs_of
from s2l_ray.experiments.configurations import Configuration, configurations_of, portable
from s2l_ray.experiments.driver import ExperimentResult, run_experiment
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.experiments.measured import MeasuredRun, measured_runs
from s2l_ray.experiments.memory import Memory
from s2l_ray.experiments.reading import load_experiment
from s2l_ray.experiments.runs_csv import write_runs
from s2l_ray.experiments.runs_from_csv import runs_from_csv
from s2l_ray.experiments.taken import OUTCOMES
from s2l_ray.kinds import Source
from s2l_ray.machine.storage import Storage
from s2l_ray.results import EvaluationRecord, Spent
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.place import StudyPlace, StudyState
from tests.support.experiments import PASS_AT_1, experiment
from tests.support.paths import ROOT

FOUR = {"schedule.steps": 4, "schedule.mix_steps": 2}
ARMS: dict[str, Any] = {"grpo": {"schedule.kind": "off"}, "ours": {}}
FILE = experiment(also=["eval/learner/reward"], arms=ARMS, seeds=2, values=FOUR)
Row = dict[str, str]


def spent(run: int, step: int) -> Spent:
    """An odd number of everything, so that no rounding goes unseen. GRPO has no explorer."""
    tokens: dict[Source, int] = {"learner": 7 * step * run}
    if run % 2 == 0:
        tokens["explorer"] = step
    flops: dict[Source, float] = {source: count * 1e9 / 3 for source, count in tokens.items()}
    recorded = tokens.get("explorer", 0)
    cost = Compute(32 * step, tokens, flops, recorded, recorded * 1e9 / 3, 1e10 * step / 7, 1e11 * step / run)
    return Spent(step * run / 3, cost)


def record(run: int, step: int) -> dict[str, Any]:
    values = {1: run * (step + 1) / 1000, 8: 0.5 + run / 30}
    bounds = dict.fromkeys(values, (0.0, 1.0))
    return EvaluationRecord(
        step, "learner", step, 3, 8, values, bounds, -run / 7, 99, [1, 2, 3], 1.0, spent(run, step)
    ).to_json()


def finished(file: ExperimentFile, folder: Path) -> list[TrialOutcome]:
    """Run directories after 4 steps, evaluated before, in the middle and after; the last run failed."""
    outcomes = []
    *runs, last = runs_of(file)
    for run in runs:
        (directory := folder / str(run.number)).mkdir(parents=True)
        before, middle, after = (record(run.number, step) for step in (0, 2, 4))
        evaluation = {"before": before, "during": [middle], "after": after}
        content = {"evaluation": evaluation, "spent": spent(run.number, 4).to_json()}
        (directory / "summary.json").write_text(json.dumps(content))
        seconds = spent(run.number, 4).seconds
        name = f"{file.name}_{run.number:05d}"
        outcomes.append(TrialOutcome(name, {}, 4, "finished", seconds=seconds, directory=str(directory)))
    error = 'out of memory,\n"said" Ray'
    return [*outcomes, TrialOutcome(f"{file.name}_{last.number:05d}", {}, 4, "failed", directory="", error=error)]


@cache
def configurations() -> list[Configuration]:
    return configurations_of(FILE, [])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of an experiment."""
    runs = measured_runs(runs_of(FILE), finished(FILE, tmp_path / "runs"), Storage(str(tmp_path), "storage"))
    write_runs(runs, configurations(), tmp_path / "runs.csv")
    return tmp_path / "runs.csv"


def rows_of(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(*paths: Path, file: ExperimentFile = FILE) -> list[MeasuredRun]:
    return runs_from_csv([str(path) for path in paths], file, configurations())


# ---- what it holds --------------------------------------------------------------------------------------------------


def test_there_is_a_row_for_each_evaluation(path: Path) -> None:
    rows = rows_of(path)
    assert [(row["arm"], row["seed"], row["status"], row["step"]) for row in rows] == [
        *[("grpo", "1", "finished", step) for step in "024"],
        *[("ours", "1", "finished", step) for step in "024"],
        *[("grpo", "2", "finished", step) for step in "024"],
        ("ours", "2", "failed", ""),
    ]
    ours = rows[5]  # number 2, after 4 steps
    assert float(ours[PASS_AT_1]) == 0.01 and float(ours["eval/learner/reward"]) == -2 / 7
    assert (ours["prompts"], ours["tokens_learner"], ours["tokens_explorer"]) == ("128", "56", "4")
    assert float(ours["update_flops"]) == 2e11 and float(ours["seconds"]) == 8 / 3
    assert rows[2]["tokens_explorer"] == "" and rows[-1]["error"].startswith("out of memory")
    values = json.loads(rows[3]["values"])
    assert (values["schedule.kind"], values["seed"], values["rollout.explorer_seed"]) == ("linear", 1, 1)
    assert values["models.learner"] == "embedded:large" and "trainer.cpus" not in values
    assert [bool(row["values"]) for row in rows] == [True, False, False] * 3 + [True]


def test_paths_of_a_machine_are_not_in_it() -> None:
    given = {
        "data.train": "/home/me/data/train.jsonl",
        "data.prompt": "/a/b/{question}",
        "evaluation.k": [1],
        "seed": 1,
    }
    there = {"models.learner": "Qwen/Qwen3-8B", "models.explorer": "outputs/family-3/small", "data.eval": None}
    assert portable(given | there) == given | there | {
        "data.train": "data/train.jsonl",
        "models.explorer": "family-3/small",
    }
    assert portable(portable(given | there)) == portable(given | there)
    assert portable({"models.learner": "large"}) == {"models.learner": "large"}


def test_an_experiment_compared_from_files_has_the_tables_that_it_has_from_its_runs(tmp_path: Path) -> None:
    content = FILE.model_dump(mode="json") | {"storage": str(tmp_path / "outputs"), "name": "whole"}
    whole = ExperimentFile.model_validate(content)
    outcomes = finished(whole, tmp_path / "runs")
    place = StudyPlace.of(whole.storage, whole.name)
    Memory.of(whole, []).write(place)
    place.write(StudyState("quickstart", {}, {}, [], finished=True, seconds=sum(found.seconds for found in outcomes)))
    kept = {"confidence": 0.95, "outcomes": [outcome.to_json() for outcome in outcomes]}
    place.storage.put(OUTCOMES, json.dumps(kept).encode())
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    original = run_experiment(str(tmp_path / "whole.yaml"))
    rows = rows_of(tmp_path / "outputs" / "whole" / "runs.csv")
    by_seed = [write(tmp_path / f"{n}.csv", [row for row in rows if row["seed"] == n]) for n in "21"]
    content |= {"name": "again", "runs_from": [str(file) for file in by_seed]}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    again = run_experiment(str(tmp_path / "again.yaml"))
    assert again.comparison.arms == without_directories(original).comparison.arms
    first, second = (shown(result, tmp_path) for result in (original, again))
    assert first.replace("whole", "again") == second and "+0." in first and "out of memory" in first
    found, told = (
        json.loads((tmp_path / "outputs" / name / "experiment.json").read_text()) for name in ("whole", "again")
    )
    assert found["arms"] == told["arms"] and found["confidence"] == told["confidence"] == 0.95
    assert rows_of(tmp_path / "outputs" / "again" / "runs.csv") == rows
    content |= {"name": "by_name", "runs_from": "again"}  # which has run nothing itself
    (tmp_path / "by_name.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert run_experiment(str(tmp_path / "by_name.yaml")).comparison.arms == again.comparison.arms


def without_directories(result: ExperimentResult) -> ExperimentResult:
    """The same, from runs whose directories are not known."""
    arms = tuple(replace(a, runs=tuple(replace(run, directory="") for run in a.runs)) for a in result.comparison.arms)
    return replace(result, comparison=replace(result.comparison, arms=arms))


def shown(result: ExperimentResult, folder: Path) -> str:
    console = Console(width=160, record=True, file=(folder / "out").open("w"))
    console.print(result.table)
    return console.export_text()


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_run_in_two_files_is_refused(path: Path, tmp_path: Path) -> None:
    rows = rows_of(path)
    other = write(tmp_path / "other.csv", rows[3:6])
    with pytest.raises(ConfigError, match=r"other\.csv, row 2: ours, seed 1 is there twice; .*runs\.csv, row 5"):
        read(path, other)
    write(path, rows[:3])
    with pytest.raises(
        ConfigError, match="have no run of the configuration of grpo, seed 2, ours, seed 2; give their files too"
    ):
        read(path, other)


def test_files_of_other_ks_are_compared_where_they_agree(path: Path, tmp_path: Path) -> None:
    rows = rows_of(path)
    for row in rows[:3]:
        row[f"{PASS_AT_1[:-1]}8"] = ""
    fewer, whole = read(write(tmp_path / "fewer.csv", rows)), read(path)
    assert [set(point.values) for point in fewer[0].points] == [{PASS_AT_1, "eval/learner/reward"}] * 3
    assert fewer[1:] == whole[1:]


def test_a_key_that_an_earlier_version_did_not_know_has_its_default_there(path: Path, tmp_path: Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    older = tmp_path / "older.csv"
    for left_out, refused in (("objective.old_logprobs", None), ("trainer.learning_rate", "was 1e-06, now 0.0002")):
        for row in rows:
            if row["values"]:
                values = json.loads(row["values"])
                del values[left_out]
                row["values"] = json.dumps(values)
        with older.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        if refused is None:
            assert read(older) == read(path)
        else:
            with pytest.raises(ConfigError, match=f"{left_out} {refused}$"):
                read(older)


OTHER_SETTINGS = {
    "lower_rate": ["trainer.learning_rate=1e-4"],
    "one_mini_batch": ["objective.mini_batch_prompts=32"],
    "group_16": ["rollout.group_size=16", "rollout.prompts_per_step=16", "objective.mini_batch_prompts=8"],
}
"""Of the repetitions of figure4_varied that docs/results.md shows, by a part of the file's name."""


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "assets").glob("*.csv")), ids=lambda path: path.stem)
def test_the_published_runs_are_of_the_shipped_experiments(path: Path) -> None:
    family = next((name for name in ("wide", "easy", "tiny") if name in path.stem), None)
    overrides = next((words for name, words in OTHER_SETTINGS.items() if name in path.stem), [])
    if family:
        files = {"models.learner": "large", "data.train": "train.jsonl", "data.eval": "heldout.jsonl"}
        files = {"models.explorer": "small"} | (files if family != "tiny" else {})
        overrides = overrides + [f"{key}=outputs/family-{family}/{name}" for key, name in files.items()]
    name, _, seed = path.stem.partition("_seed_")
    name = "figure4_varied" if name.startswith("figure4_varied") else name
    file = load_experiment(name, [f"seeds=[{seed}]"] if seed else [])
    found = runs_from_csv([str(path)], file, configurations_of(file, overrides))
    assert {run.status for run in found} == {"finished"} and len(found) == len(runs_of(file))


def test_the_file_that_an_experiment_writes_is_none_that_it_is_compared_from(tmp_path: Path) -> None:
    content = FILE.model_dump(mode="json") | {"storage": str(tmp_path), "name": "mine"}
    (tmp_path / "mine").mkdir()
    own = tmp_path / "mine" / "runs.csv"
    write_runs(
        measured_runs(runs_of(FILE), finished(FILE, tmp_path / "runs"), Storage(str(tmp_path), "storage")),
        configurations(),
        own,
    )
    before = own.read_bytes()
    link = tmp_path / "link.csv"
    link.symlink_to(own)
    for given in (own, link):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content | {"runs_from": str(given)}))
        with pytest.raises(ConfigError, match=r"mine/runs\.csv is the file that this experiment writes itself"):
            run_experiment(str(tmp_path / "mine.yaml"))
    assert own.read_bytes() == before


def test_runs_are_found_by_their_configuration_and_others_passed_over(path: Path) -> None:
    ours = FILE.arms["ours"]
    arms = {"published": ours, "off": FILE.arms["grpo"]}
    another = experiment(also=["eval/learner/reward"], arms=arms, seeds=1, values=FOUR)
    found = runs_from_csv([str(path)], another, configurations_of(another, []))
    whole = {(run.run.arm, run.run.seed): run for run in read(path)}
    assert [(run.run.label, run.points) for run in found] == [
        ("published, seed 1", whole["ours", 1].points),
        ("off, seed 1", whole["grpo", 1].points),
    ]


def change(at: int, **cells: str) -> Callable[[list[Row]], None]:
    return lambda rows: rows[at].update(cells)


def changed_values(at: int, **values: Any) -> Callable[[list[Row]], None]:
    def applied(rows: list[Row]) -> None:
        rows[at]["values"] = json.dumps(
            json.loads(rows[at]["values"]) | {k.replace("__", "."): v for k, v in values.items()}
        )

    return applied


def without_column(name: str) -> Callable[[list[Row]], None]:
    def applied(rows: list[Row]) -> None:
        for row in rows:
            del row[name]

    return applied


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_column(PASS_AT_1), f"row 1: there is no column {PASS_AT_1}"),
        (without_column("values"), "row 1: there is no column values"),
        (change(1, arm="theirs"), "row 3: values is not a JSON object; a run's first row has its configuration there"),
        (change(9, seed="3"), "row 11: seed is 3, but 2 in values"),
        (change(9, seed="1.5"), "row 11: seed is 1.5, not a whole number"),
        (change(2, **{PASS_AT_1: "good"}), f"row 4: {PASS_AT_1} is 'good', not a number"),
        (change(2, **{PASS_AT_1: "nan"}), f"row 4: {PASS_AT_1} is nan; give a finite number"),
        (change(2, **{PASS_AT_1: "14.9"}), f"row 4: {PASS_AT_1} is 14.9; it is a share, between 0 and 1"),
        (change(2, **{PASS_AT_1: ""}), f"row 4: {PASS_AT_1} is '', not a number"),
        (change(2, update_flops="-1"), "row 4: update_flops is -1; give a finite number that is not negative"),
        (change(2, prompts=""), "row 4: prompts is '', not a number"),
        (change(2, update_flops="1e308"), "row 4: update_flops is 1e308; give a finite number"),
        (change(2, seconds="0.1"), "row 4: seconds is 0.1, less than in the row before"),
        (change(2, **{f"{PASS_AT_1[:-1]}8": "0.001"}), "row 4: pass@8 is below pass@1, which cannot be"),
        (lambda rows: rows.pop(2), "row 3: the last row of a finished run is of step 2, but schedule.steps is 4"),
        (change(2, step="40"), "row 4: the last row of a finished run is of step 40, but schedule.steps is 4"),
        (change(2, seconds="inf"), "row 4: seconds is inf"),
        (change(2, step="2"), "row 4: step 2 follows step 2 of the same run"),
        (change(2, status="failed"), "row 4: status is 'failed', but 'finished' in the run's first row"),
        (change(9, status="done"), "row 11: status is 'done'; there are waiting"),
        (change(9, step="4"), "row 11: a run that is failed has one row, without a step"),
        (change(3, values="["), "row 5: values is not a JSON object"),
        (change(3, values="[" * 100_000), "row 5: values is not a JSON object"),
        (change(4, values="{}"), "row 6: values differs from that of the run's first row, 5"),
        (
            changed_values(3, objective__kl=0.1, models__learner="other", data__prompt="?"),
            "row 5: ours, seed 1 is of another configuration than this experiment's: data.prompt was '\\?', now "
            "'{question} >'; models.learner was 'other', now 'embedded:large'; objective.kl was 0.1, now 0.0",
        ),
        (
            change(6, values='{"seed": 2}'),
            "row 8: grpo, seed 2 is of another configuration .* was None, now .* and [0-9]+ more",
        ),
        (lambda rows: rows.insert(0, rows.pop(3)), "row 6: values is not a JSON object"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_row(
    spoil: Callable[[list[Row]], None], message: str, path: Path
) -> None:
    rows = rows_of(path)
    spoil(rows)
    with pytest.raises(ConfigError, match=f"^runs_from: {path}, {message}"):
        read(write(path, rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "row 1: there is no column arm"),
        (b"\xff\xfe", "cannot be read: .*utf-8"),
        (b'arm,"se', "after row 1: it is no CSV"),
    ],
)
def test_a_file_that_is_no_csv_is_refused(content: bytes, message: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_rows_that_are_cut_off_and_cells_without_end_are_refused(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + "ours,1,finished\n")
    with pytest.raises(ConfigError, match="row 4: it has 3 cells, the heading has 19"):
        read(path)
    path.write_text("".join(lines[:3]) + "x" * 200_000)
    with pytest.raises(ConfigError, match="after row 3: it is no CSV: field larger than field limit"):
        read(path)


def test_files_that_are_missing_or_huge_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.csv cannot be read: No such file"):
        read(tmp_path / "gone.csv")
    with path.open("r+b") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(ConfigError, match="cannot be read: it is larger than 64 MiB"):
        read(path)


def test_a_list_is_of_files() -> None:
    for given in (["a.csv", "figure4"], [], 3, ["a.csv", 3]):
        with pytest.raises(ValueError, match=r"runs_from\n.*or a list of paths that end in \.csv") as refused:
            experiment(runs_from=given)
        assert str(refused.value).startswith("1 validation error")
    assert experiment(runs_from="a.csv").csv_files == ("a.csv",) and not experiment(runs_from="figure4").csv_files
