"""Experiments before and after their runs: files, arms, what is refused, and the comparison by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.axes import Axes
from rich.console import Console

from s2l_ray.compute import Compute
from s2l_ray.config.shipped import CONFIGURATIONS, EXPERIMENTS, STUDIES
from s2l_ray.display.text import duration
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.experiments.arms import PlannedRun, runs_of, study_of
from s2l_ray.experiments.comparison import Comparison
from s2l_ray.experiments.configurations import configurations_of
from s2l_ray.experiments.driver import begun, run_experiment
from s2l_ray.experiments.experiment_file import AtSection, ExperimentFile
from s2l_ray.experiments.figure import experiment_figure
from s2l_ray.experiments.measured import interpolated, measured_runs
from s2l_ray.experiments.memory import Memory
from s2l_ray.experiments.reading import load_experiment
from s2l_ray.experiments.rehearsal import Rehearsal, rehearse_experiment
from s2l_ray.experiments.report import write_results
from s2l_ray.experiments.table import ResultTable
from s2l_ray.experiments.taken import OUTCOMES, TakenRuns, taken_runs
from s2l_ray.machine.storage import Storage
from s2l_ray.placement.inventory import Inventory, load_inventory
from s2l_ray.placement.slicing import slice_of
from s2l_ray.planner.search import make_plan
from s2l_ray.report.experiment import curves_figure
from s2l_ray.results import Spent
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome
from s2l_ray.tuning.place import StudyPlace, StudyState
from s2l_ray.tuning.samples import Sample, StudyConfigs, drawn_samples
from s2l_ray.tuning.sharing import with_bank
from s2l_ray.tuning.slices import number_at_once, sliced
from s2l_ray.tuning.study_file import StudyFile
from tests.support.experiments import PASS_AT_1, comparison, experiment
from tests.support.object_stores import s3
from tests.support.step_records import evaluation

REWARD = "eval/learner/reward"
TWO_CORES = Inventory.of([{"gpus": 0, "cpus": 2, "memory_gb": 16}])
PAPER = ["data.train=FILE", "data.eval=FILE"]


# ---- files ----------------------------------------------------------------------------------------------------------


@cache
def drawn(name: str) -> tuple[StudyFile, list[Sample]]:
    file, overrides = load_experiment(name), PAPER if name.startswith("paper/") else []
    study = study_of(file, overrides)
    return study, drawn_samples(StudyConfigs.read(file.config, overrides, study, lambda config: {}), study)


@pytest.mark.parametrize("name", EXPERIMENTS.paths())
def test_every_run_of_a_shipped_experiment_fits_and_two_run_at_once(name: str) -> None:
    study, samples = drawn(name)
    cluster = load_inventory("2x8xH100") if name.startswith("paper/") else TWO_CORES
    file = load_experiment(name)
    assert len(samples) == len(file.arms) * 5 and file.hypothesis and file.question
    for sample in samples[: len(file.arms)]:
        config = with_bank(sliced(sample.config, study), "read")
        if not Path(config.models.explorer).exists() and not config.models.explorer.startswith("Qwen/"):
            config = config.model_copy(update={"models": samples[0].config.models})  # built by a command that it names
        plan = make_plan(config, slice_of(cluster, config.placement))
        assert plan.layout is not None, plan.problems
    assert number_at_once(cluster, sliced(samples[0].config, study).placement, len(samples)) == 2


def test_a_rehearsal_has_arms_plans_and_the_time_of_all_runs(tmp_path: Path) -> None:
    study, samples = drawn("figure4")
    plans = [make_plan(sliced(sample.config, study), TWO_CORES) for sample in samples]
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(Rehearsal(load_experiment("figure4"), study, "outputs/figure4", plans, 2, "the bank needs 5"))
    text = console.export_text()
    assert "outputs/figure4: 20 runs: 4 arms with 5 seeds (1, 2, 3, 4, 5)" in text
    assert "grpo (baseline)   schedule.kind=off" in text and "s2l_po            nothing" in text
    assert "objective.explorer_negatives=0 models.explorer=embedded:large" in text
    seconds = sum(plan.run_seconds or 0 for plan in plans) / 2
    assert f"2 runs at a time: about {duration(seconds)} for the steps of all 20" in text


def test_experiments_are_neither_configurations_nor_studies() -> None:
    assert not [name for name in (*CONFIGURATIONS.paths(), *STUDIES.paths()) if "experiments" in name]
    assert {"figure4", "paper/figure4"} <= EXPERIMENTS.paths().keys()


def test_a_file_extends_another_key_by_key(tmp_path: Path) -> None:
    base = {
        "question": "why?",
        "values": {"schedule.steps": 8, "schedule.mix_steps": 4},
        "arms": {"a": {"schedule.kind": "off"}, "b": {"schedule.start": 0.5}, "c": {}},
        "seeds": 3,
        "earlier_looks": 3,
    }
    own = {
        "extends": "base.yaml",
        "values": {"schedule.mix_steps": 6},
        "arms": {"a": None, "b": {"schedule.kind": "cosine"}, "d": {"objective.kl": 0.1}},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    file = load_experiment(tmp_path / "own.yaml", ["seeds=[4, 9]"])
    assert (file.name, file.question, file.seed_list) == ("own", "why?", (4, 9))
    assert file.earlier_looks == 0  # those were of another experiment's question
    assert file.values == {"schedule.steps": 8, "schedule.mix_steps": 6}
    assert file.arms == {"b": {"schedule.start": 0.5, "schedule.kind": "cosine"}, "c": {}, "d": {"objective.kl": 0.1}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base | {"extends": "own"}))
    with pytest.raises(ConfigError, match="extends this file itself"):
        load_experiment(tmp_path / "own.yaml")
    with pytest.raises(ConfigError, match=r"override experiment\.extends: a file says itself what it extends"):
        load_experiment("figure6", ["extends=figure4"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"arms": {"a": {}}}, "arms: give two or more"),
        ({"arms": {"a": {}, "b": None}}, "arms: give two or more"),
        ({"seeds": 10**12}, "seeds: must be less than or equal to 1000, or a list of values"),
        ({"seeds": [1, -2]}, r"seeds\.1: must be greater than or equal to 0 \(got -2\)"),
        ({"seeds": "x"}, r"seeds: must be a whole number, or a list of values \(got 'x'\)"),
        ({"at": {"axis": "flops", "value": "x"}}, "at.value: must be a number, or 'common'"),
        ({"arms": {"a": {}, True: {}}}, "arms: the name True must be text; put it in quotes, without which YAML reads"),
        ({"arms": {"a": {}, "b c": {}}}, "arms: the name 'b c' must have at most 60 letters"),
        ({"runs_from": ""}, "runs_from: give the name of an experiment"),
        ({"extends": "nothing"}, r"wrong\.yaml: extends: .*nothing does not exist"),
        ({"extends": "wrong.yaml"}, "extends"),
        ({"arm": {}}, "arm: unknown key; did you mean 'arms'"),
        ({"baseline": "c"}, "baseline: 'c' is no arm; there are a, b"),
        ({"seeds": [1, 1]}, "a seed is there twice"),
        ({"nodes_per_trial": 1, "cpus_per_trial": 1}, "not both"),
        ({"at": {"axis": "flop"}}, "at.axis"),
        ({"arms": "x"}, "must be a mapping"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"arms": {"a": {}, "b": {"objective.kl": 0.1}}} | content))
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)


# ---- arms -----------------------------------------------------------------------------------------------------------


def test_each_arm_runs_with_each_seed_and_arms_share_the_explorers_rollouts() -> None:
    file = experiment(
        arms={"grpo": {"schedule.kind": False}, "ours": {}, "mild": {"objective.explorer_negatives": 0.5}}
    )
    assert [run.label for run in runs_of(file)][:4] == ["grpo, seed 1", "ours, seed 1", "mild, seed 1", "grpo, seed 2"]
    study = study_of(file, ["objective.mini_batch_prompts=32"])
    base = {"schedule.kind": "linear", "objective.explorer_negatives": 0.0}
    one = {"seed": 1, "rollout.explorer_seed": 1}
    assert study.runs[:3] == (
        base | {"schedule.kind": "off"} | one,
        base | one,
        base | {"objective.explorer_negatives": 0.5} | one,
    )
    assert study.runs[3]["seed"] == study.runs[3]["rollout.explorer_seed"] == 2
    shared = study_of(experiment(share_explorer_rollouts=True))
    assert "rollout.explorer_seed" not in shared.space
    samples = drawn_samples(StudyConfigs.read("quickstart", [], study, lambda config: {}), study)
    assert [sample.config.schedule.kind for sample in samples] == ["off", "linear", "linear"] * 2


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"arms": {"a": {"schedule.knd": "off"}, "b": {}}}, [], r"arms\.a\.schedule\.knd: unknown key"),
        ({"arms": {"a": {"schedule": {"kind": "off"}}, "b": {}}}, [], "arms.a.schedule is a section"),
        ({"arms": {"a": {"evaluation.samples": 4}, "b": {}}}, [], "measured in different ways"),
        ({"arms": {"a": {}, "b": {"seed": 4}}}, [], "arms.b.seed: seeds are those of the experiment"),
        ({"values": {"schedule.stepz": 7}}, [], r"^values\.schedule\.stepz: unknown key; did you mean schedule\.steps"),
        ({"arms": {"a": {"trainer.replicas": "x"}, "b": {}}}, [], "arms.a.trainer.replicas: must be 'auto', or a"),
        ({"values": {"seed": 7}}, [], "values.seed: seeds are those of the experiment"),
        ({"arms": {"a": {}, "b": {"schedule.kind": "linear"}}}, [], "arms.b: has the same values as arms.a"),
        ({}, ["schedule.kind=linear"], "schedule.kind: the arms and seeds of the experiment say what it is"),
        ({"metric": "reward"}, [], "reward is not what arms are compared by"),
        ({}, ["data.eval=null"], "needs held-out problems"),
        ({"also": ["eval/learner/pass_at_3"]}, [], "also: eval/learner/pass_at_3 is not what arms are compared by"),
    ],
)  # fmt: skip
def test_impossible_arms_are_named(changes: dict[str, Any], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study_of(experiment(**changes), overrides)


def test_a_study_with_runs_of_its_own() -> None:
    with pytest.raises(ValueError, match="number 2 and space differ in the keys seed"):
        StudyFile(space={"seed": [1, 2]}, runs=({"seed": 1}, {}))
    study = StudyFile(space={"schedule.kind": ["off", "linear"]}, runs=({"schedule.kind": "cosine"},))
    with pytest.raises(ConfigError, match="runs: number 1 has schedule.kind=cosine, which is not in space"):
        StudyConfigs.read("quickstart", [], study, lambda config: {})


# ---- going on -------------------------------------------------------------------------------------------------------


def test_another_experiment_in_the_same_place_is_refused(tmp_path: Path) -> None:
    file = experiment(storage=str(tmp_path))
    place = StudyPlace.of(file.storage, file.name)
    memory, state = begun(place, file, ["schedule.steps=40"])
    assert state is None
    memory.write(place)
    place.write(StudyState("quickstart", {}, {}, []))
    shown = experiment(storage=str(tmp_path), axis="flops", question="other words")
    again, state = begun(place, shown, ["schedule.steps=40"])
    assert state is not None and again.begun == memory.begun
    older = replace(memory, experiment={k: v for k, v in memory.experiment.items() if k not in ("at", "runs_from")})
    older.write(place)  # by a version that did not know these keys
    assert begun(place, shown, ["schedule.steps=40"])[1] is not None
    changed = experiment(
        storage=str(tmp_path), arms={"grpo": {"schedule.kind": "off", "objective.kl": 0.1}, "new": {}}, hypothesis="so"
    )
    with pytest.raises(ConfigError) as error:
        begun(place, changed, [])
    assert str(error.value).splitlines()[1:] == [
        "  hypothesis: '' before, 'so' now",
        "  arms.grpo.objective.kl: not there before, 0.1 now",
        "  arms.ours: {} before, not there now",
        "  arms.new: not there before, {} now",
        "  overrides: schedule.steps=40 before, none now",
    ]
    place.storage.remove("experiment.yaml")
    with pytest.raises(ConfigError, match="holds a study that is no experiment"):
        begun(place, file, [])
    for damage, reason in (
        (b"{", "it is not valid YAML"),
        (b"\xff", "it is not valid YAML"),
        (b"- 1", "it must be a mapping of keys to values"),
        (b"overrides: []", "experiment: missing"),
        (b"{experiment: {}, overrides: []}", "arms: missing"),
    ):
        place.storage.put("experiment.yaml", damage)
        with pytest.raises(ConfigError, match=rf"experiment\.yaml is damaged \({reason}\); put a copy of it back"):
            begun(place, shown, [])


def finished_runs(file: ExperimentFile, folder: Path) -> None:
    """What an experiment leaves whose run number n ended at a pass@1 of n / 100."""
    place = StudyPlace.of(file.storage, file.name)
    Memory.of(file, []).write(place)
    outcomes = []
    for run in runs_of(file):
        (directory := folder / str(run.number)).mkdir(parents=True)
        after = replace(evaluation("learner", 4), pass_at={1: run.number / 100}, ci={1: (0.0, 1.0)}).to_json()
        evaluations = {"before": None, "during": [], "after": after}
        (directory / "summary.json").write_text(
            json.dumps({"evaluation": evaluations, "spent": Spent(1, None).to_json()})
        )
        name = f"{file.name}_{run.number:05d}"
        outcomes.append(TrialOutcome(name, {}, 4, "finished", seconds=2.0, directory=str(directory)).to_json())
    place.storage.put(OUTCOMES, json.dumps({"confidence": 0.9, "outcomes": outcomes}).encode())


def taken_by(file: ExperimentFile) -> TakenRuns:
    return taken_runs(file, configurations_of(file, []))


def test_runs_of_another_experiment_are_compared_for_another_question(tmp_path: Path) -> None:
    storage = {"storage": str(tmp_path / "outputs")}
    half = {"objective.explorer_negatives": 0.5}
    finished_runs(
        experiment(name="all", arms={"grpo": {"schedule.kind": "off"}, "ours": {}, "half": half}, **storage), tmp_path
    )
    own = {"arms": {"a": half, "b": {"schedule.kind": "off"}}, "seeds": [2, 1], "runs_from": "all", **storage}
    # Of "all", runs 1 to 3 are grpo, ours and half with seed 1, and 4 to 6 with seed 2.
    taken = taken_by(experiment(**own, values={"trainer.cpus": 0.5}))
    assert [Path(run.directory).name for run in taken.runs] == ["6", "4", "3", "1"]
    assert [run.run.number for run in taken.runs] == [1, 2, 3, 4]
    assert (taken.confidence, taken.facts.seconds) == (0.9, 8.0)
    for changes, missing in (({"values": {"objective.kl": 0.1}}, "a, seed 2, b, seed 2, a, seed 1 and 1 more"),
                             ({"seeds": [3]}, "a, seed 3, b, seed 3")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"has no run of the configuration of {missing}"):
            taken_by(experiment(**own | changes))
    with pytest.raises(ConfigError, match="other holds no experiment"):
        taken_by(experiment(**own | {"runs_from": "other"}))
    alike = {"arms": {"a": half, "b": half | {"trainer.compile": True}}}
    with pytest.raises(ConfigError, match=r"runs_from: a, seed 2 and b, seed 2 differ only in where and how fast"):
        taken_by(experiment(**own | alike))

    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own | {"seeds": 2}))
    result = run_experiment(str(tmp_path / "mine.yaml"))
    a, b = (arm.metrics[PASS_AT_1] for arm in result.comparison.arms)
    assert (a.by_seed, b.by_seed) == ({1: 0.03, 2: 0.06}, {1: 0.01, 2: 0.04})
    content = json.loads((tmp_path / "outputs" / "mine" / "experiment.json").read_text())
    assert content["confidence"] == 0.9 and content["experiment"]["runs_from"] == "all"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own | {"seeds": 2, "hypothesis": "found afterwards"}))
    with pytest.raises(ConfigError, match="hypothesis: '' before, 'found afterwards' now"):
        run_experiment(str(tmp_path / "mine.yaml"))


# ---- comparison -----------------------------------------------------------------------------------------------------


def test_arms_are_compared_by_hand() -> None:
    found = comparison()
    grpo, ours, worse = (arm.metrics[PASS_AT_1] for arm in found.arms)
    assert grpo.mean == pytest.approx(0.2) and grpo.difference is None
    assert ours.mean == pytest.approx(0.4)
    gap = ours.difference
    assert gap is not None and gap.mean == pytest.approx(0.2)
    half = 4.302653 * 0.1 / 3**0.5  # t of 2 degrees of freedom; the differences' deviation is 0.1
    assert gap.interval == pytest.approx((0.2 - half, 0.2 + half))
    assert gap.p_t == pytest.approx(0.0741799)  # t = 3.4641
    assert gap.p_sign == 2 / 8
    assert worse.difference is not None and worse.difference.by_seed == {1: pytest.approx(-0.1), 2: pytest.approx(-0.1)}
    assert worse.difference.p_t == pytest.approx(0, abs=1e-9) and worse.difference.p_sign == 0.5
    assert gap.holm_t == gap.p_t and worse.difference.holm_sign == 0.5 == gap.holm_sign  # of two tests
    assert found.arms[1].compute is not None and found.arms[1].compute.flops == 450 and found.arms[1].seconds == 6
    assert [r.run.label for r in found.unfinished] == ["worse, seed 3"]


def test_arms_can_be_compared_at_equal_flops() -> None:
    """50 is the most that every run got to: half of GRPO's way, a quarter of the worse arm's."""
    found = comparison(at={"axis": "flops", "value": "common"})
    values = [arm.metrics[PASS_AT_1].mean for arm in found.arms]
    assert found.place == 50 and values == pytest.approx([0.15, 0.4, 0.1])
    beyond = comparison(at=AtSection(axis="flops", value=150).model_dump())
    assert [len(arm.metrics[PASS_AT_1].by_seed) for arm in beyond.arms] == [0, 0, 2]
    assert beyond.arms[2].metrics[PASS_AT_1].difference is None
    assert interpolated([0, 10, 10], [1, 3, 5], 10) == 3 and interpolated([0, 10], [1, 3], 11) is None


def test_results_are_written_and_shown(tmp_path: Path) -> None:
    found = comparison(question="Does it help?", hypothesis="It does.", earlier_looks=2)
    files = write_results(found, StudyFacts(65.0), tmp_path, "2026-01-02T03:04:05+00:00")
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["experiment.json", "figures/experiment.png"]
    content = json.loads(files[0].read_text())
    assert (content["looks"], content["comparisons"], content["begun"][:10]) == (3, 2, "2026-01-02")
    ours = content["arms"][1]
    assert ours["metrics"][PASS_AT_1]["difference"]["by_seed"] == pytest.approx({"1": 0.1, "2": 0.2, "3": 0.3})
    assert [p["mean"] for p in ours["curves"][PASS_AT_1]] == pytest.approx([0.1, 0.4])
    assert ours["compute"]["rollout_compute_saved"] == pytest.approx(0.2)
    assert content["runs"][-1]["error"] == "out of memory"
    console = Console(width=110, record=True, file=(tmp_path / "out").open("w"))
    console.print(ResultTable(found, StudyFacts(65.0), str(tmp_path), tmp_path))
    text = console.export_text()
    assert "hypothesis, fixed beforehand: It does." in text and "+20.0 [-4.8, +44.8]" in text
    assert "not in the comparison: worse, seed 3 (failed): out of memory" in text and "20.0%" in text
    words = " ".join(text.split())  # of the arms, one has two seeds of three
    assert "Flipping the signs of 2 and 3 differences gives no p-value below 0.5 and 0.25, respectively." in words
    assert "asked 2 times before" in text


def sentences(found: Comparison, folder: Path) -> str:
    console = Console(width=300, record=True, file=(folder / "out").open("w"))
    console.print(ResultTable(found, StudyFacts(65.0), str(folder), folder))
    return console.export_text()


def test_runs_that_do_not_get_to_where_arms_are_compared_are_named(tmp_path: Path) -> None:
    beyond = sentences(comparison(at={"axis": "flops", "value": 150}), tmp_path)
    assert "Arms are compared at 150 FLOPs" in beyond
    assert "Not compared, since they did not get there: grpo, seed 1, grpo, seed 2, grpo, seed 3 and 3 more." in beyond
    assert "figure" not in beyond  # nothing was drawn in this folder


def test_a_question_is_no_formula(tmp_path: Path) -> None:
    found = comparison(question=r"Does $\foo$ help?")
    _, figure = write_results(found, StudyFacts(1.0), tmp_path, "")
    assert figure.stat().st_size > 10_000


def test_damaged_outcomes_are_named_with_the_way_out(tmp_path: Path) -> None:
    storage = {"storage": str(tmp_path / "outputs")}
    finished_runs(experiment(name="all", **storage), tmp_path)
    outcomes = tmp_path / "outputs" / "all" / "runs.json"
    for content in ("garbage", "[]", '{"confidence": 0.95}', '{"confidence": 0.95, "outcomes": [3]}', "[" * 100_000):
        outcomes.write_text(content)
        with pytest.raises(ConfigError, match=r"runs\.json is damaged \(.*compare from runs\.csv"):
            taken_by(experiment(name="mine", runs_from="all", **storage))


def test_runs_are_read_from_their_directories(tmp_path: Path) -> None:
    runs = [PlannedRun(1, "grpo", 1), PlannedRun(2, "ours", 1), PlannedRun(3, "late", 1)]
    spent = Spent(3.0, Compute(8, {"learner": 10}, {"learner": 100.0}, grpo_flops=125.0, update_flops=50.0))
    record = replace(evaluation("learner", 4), spent=spent)
    summary = {
        "evaluation": {"before": evaluation("learner", 0).to_json(), "during": [], "after": record.to_json()},
        "spent": spent.to_json(),
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    outcomes = [
        TrialOutcome("e_00001", {}, 4, "finished", directory=str(tmp_path)),
        TrialOutcome("e_00002", {}, 4, "finished", directory=str(tmp_path / "gone")),
    ]
    found, broken, late = measured_runs(runs, outcomes, Storage(str(tmp_path / "study"), "storage"))
    assert found.points[1].at == {"steps": 4, "prompts": 8, "tokens": 10, "flops": 150, "seconds": 3}
    assert found.points[1].values[PASS_AT_1] == 0.2 and found.spent == spent
    assert broken.status == "failed" and "summary.json" in str(broken.error)
    assert late.status == "waiting"


def test_runs_are_found_beside_the_study_where_their_own_paths_are_those_of_another_machine(tmp_path: Path) -> None:
    """As in a store, of which each machine has its own trials only, and after a project was moved."""
    file = experiment(name="all", storage=str(tmp_path / "outputs"))
    place = StudyPlace.of(file.storage, file.name)
    finished_runs(file, place.directory)
    place.write(StudyState("quickstart", {}, {}, None, finished=True))
    kept = json.loads(place.storage.read(OUTCOMES))
    for row in kept["outcomes"]:
        row["directory"] = f"/of/another/machine/{Path(row['directory']).name}"
    place.storage.put(OUTCOMES, json.dumps(kept).encode())
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(file.model_dump(mode="json")))
    result = run_experiment(str(tmp_path / "all.yaml"))
    grpo, ours = (arm.metrics[PASS_AT_1] for arm in result.comparison.arms)
    assert result.again and (grpo.by_seed, ours.by_seed) == ({1: 0.01, 2: 0.03}, {1: 0.02, 2: 0.04})
    mine = experiment(name="mine", runs_from="all", storage=file.storage)
    assert [run.status for run in taken_by(mine).runs] == ["finished"] * 4

    results = place.directory / "experiment.json"
    before = results.read_bytes()
    for number in (1, 2, 3, 4):
        (place.directory / str(number) / "summary.json").unlink()
    with pytest.raises(DataError, match=r"of any of the 4 runs that finished cannot be read; of grpo, seed 1 its summ"):
        run_experiment(str(tmp_path / "all.yaml"))
    assert results.read_bytes() == before


def test_results_that_do_not_get_into_the_store_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("S2L_OUTPUTS", str(tmp_path / "outputs"))
    with s3() as store:
        file = experiment(name="all", storage=store.uri("bucket/studies"))
        finished_runs(file, tmp_path)
        StudyPlace.of(file.storage, file.name).write(StudyState("quickstart", {}, {}, None, finished=True))
        store.fails = lambda method, path: method == "PUT" and path.endswith("/experiment.json")
        mine = experiment(name="mine", runs_from="all", storage=file.storage)
        for one, where in ((file, "studies/all"), (mine, "studies/mine")):
            (path := tmp_path / f"{one.name}.yaml").write_text(yaml.safe_dump(one.model_dump(mode="json")))
            run_experiment(str(path))
            said = " ".join(capsys.readouterr().out.split())
            assert said.startswith("note: ") and f"could not be copied to s3://bucket/{where}" in said


def test_a_rehearsal_says_where_nothing_would_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = experiment(name="all", storage=str(tmp_path / "outputs"))
    finished_runs(file, tmp_path)
    place = StudyPlace.of(file.storage, file.name)
    place.write(StudyState("quickstart", {}, {}, None, finished=True))
    mine = experiment(name="mine", runs_from="all", storage=file.storage)
    compared = "all: the experiment is finished; nothing would be run, and its arms would be compared again"
    taken = "mine: nothing would be run; the arms would be compared from 4 runs of runs_from"
    for one, expected in ((file, compared), (mine, taken)):
        (path := tmp_path / f"{one.name}.yaml").write_text(yaml.safe_dump(one.model_dump(mode="json")))
        rehearse_experiment(str(path), [])
        assert expected in " ".join(capsys.readouterr().out.split())


def test_shipped_experiments_can_be_compared_from_the_runs_of_all_arms(tmp_path: Path) -> None:
    finished_runs(load_experiment("all_arms", [f"storage={tmp_path}", "seeds=1"]), tmp_path)
    for name in EXPERIMENTS.paths():
        if name not in ("all_arms", "cross_family", "figure4_longer") and not name.startswith("paper/"):
            file = load_experiment(name, [f"storage={tmp_path}", "seeds=1", "runs_from=all_arms"])
            assert [run.status for run in taken_by(file).runs] == ["finished"] * len(file.arms), name


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """The curves of a panel by their labels: places and values."""
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


@pytest.mark.parametrize(("axis", "places"), [("flops", [0, 50]), ("seconds", [0, 10]), ("tokens", [0, 10])])
def test_curves_lie_where_their_cost_is_on_the_axis(axis: str, places: list[float]) -> None:
    """`ours` cost 50 FLOPs, 10 seconds and 10 tokens until its last evaluation, with every seed."""
    (panel,) = experiment_figure(comparison(axis=axis)).axes
    found = lines(panel)
    assert found["ours"] == (pytest.approx(places), pytest.approx([10, 40]))
    assert found["grpo (baseline)"][0][1] == pytest.approx({"flops": 100}.get(axis, 10))
    heights = panel.collections[1].get_paths()[0].vertices[:, 1]  # the band of the second arm
    low, high = heights.min(), heights.max()
    # The mean of 0.3, 0.4, 0.5 with Student's t of two degrees of freedom: 0.4 -+ 4.303 * 0.1 / sqrt(3).
    assert (low, high) == (pytest.approx(10), pytest.approx(64.8, abs=0.05))


def test_the_panels_of_a_report_are_steps_flops_and_seconds(tmp_path: Path) -> None:
    write_results(comparison(), StudyFacts(65.0), tmp_path, "2026-01-02T03:04:05Z")
    figure = curves_figure(json.loads((tmp_path / "experiment.json").read_text()), PASS_AT_1)
    assert figure is not None
    assert [panel.get_xlabel() for panel in figure.axes] == [
        *("steps", "FLOPs of rollouts and updates", "seconds of training")
    ]
    ends = [sorted(line.get_xdata()[-1] for line in panel.get_lines()) for panel in figure.axes]
    assert ends == [[10, 10, 10], [50, 100, 200], [10, 10, 10]]
