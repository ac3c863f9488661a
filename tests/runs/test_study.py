"""Whole studies from the command line: with only a store between two starts, with exploits, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from s2l_ray import load_config
from s2l_ray.cli import main
from s2l_ray.miniature.build import Family
from s2l_ray.run.mirror import Mirror
from tests.support.object_stores import Store, s3
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import output_of, processes_of, start_s2l, steps_of, wait_until, words_of

STEPS, EVERY = 16, 2
RATE = "trainer.learning_rate"
BROKEN = "tests.support.losses:is_broken"
BY_RATE = {"metric": "trainer/learning_rate", "mode": "max"}
"""Which trial is better is no matter of chance."""


class Study:
    """A study of short runs in a folder of its own: its file, and the command's words."""

    def __init__(self, family: Family, folder: Path, name: str, **file: Any) -> None:
        self.folder, self.name = folder, name
        self.outputs = folder / "outputs"
        """Of this machine, and all that it writes but MLflow's database."""
        self.file = folder / f"{name}.yaml"
        self.file.write_text(yaml.safe_dump(file | BY_RATE, sort_keys=False))
        settings = run_config(family, folder) | {
            "schedule.steps": STEPS,
            "schedule.mix_steps": 3,
            "checkpoint.every": EVERY,
            "evaluation.samples": 2,
            "evaluation.k": [1, 2],
            "trainer.cpus": 0.4,
            "engines.learner.cpus": 0.2,
            "engines.explorer.cpus": 0.2,
            "tracking.uri": f"sqlite:///{folder}/mlflow.db",
        }
        self.settings = {key: settings[key] for key in settings.keys() - {"run_dir", *file["space"]}}

    @property
    def words(self) -> list[str]:
        return ["tune", "quickstart", str(self.file), *words_of(self.settings)]

    def start(self, *words: str):
        """The command in a process of its own; by default the study's."""
        return start_s2l(words or self.words, self.folder, S2L_OUTPUTS=str(self.outputs), COLUMNS="300")

    def trial(self, number: int) -> Path:
        """The run directory of a trial on this machine."""
        return self.outputs / self.name / f"{self.name}_{number:05d}"

    @property
    def table(self) -> dict[str, Any]:
        """tune.json."""
        return json.loads((self.outputs / self.name / "tune.json").read_text())

    def mlflow(self) -> dict[str, Run]:
        """Every MLflow run there is, by name."""
        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        found = client.search_runs([one.experiment_id for one in client.search_experiments()])
        runs = {run.info.run_name: run for run in found}
        assert len(runs) == len(found)
        return runs


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says, which ends at once."""
    assert main(words) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: ") and "Traceback" not in said
    return said


def checkpoints_in(store: Store, study: Study) -> list[int]:
    """The steps of the first trial's whole checkpoints in the store."""
    names = Mirror(store.uri(f"bucket/studies/{study.name}"), f"{study.name}_00001").checkpoints()
    return [int(name.removeprefix("step-")) for name in names]


# ---- a study of which only the store is left -----------------------------------------------------------------------


@pytest.mark.timeout(3 * PATIENCE_S)
@pytest.mark.long
def test_a_killed_study_goes_on_from_its_store_beside_a_trial_that_fails_for_good(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Two of three trials at a time. The second one has a loss with a bug, and the third one learns nothing."""
    with s3() as store:
        study = Study(
            family,
            tmp_path,
            "halving",
            storage=store.uri("bucket/studies"),
            space={RATE: [3.0e-3, 1.0e-9], "objective.loss": ["ppo", BROKEN]},
            trials=3,
            seed=55,  # which draws the values below
            scheduler={"kind": "asha", "grace": EVERY, "reduction_factor": 2},
            cpus_per_trial=1,
            max_failures=0,
        )
        first = study.start()
        wait_until(
            lambda: checkpoints_in(store, study) or first.poll() is not None, "a checkpoint of trial 1 in the store"
        )
        first.kill()
        said = first.communicate(timeout=PATIENCE_S)[0]
        assert "3 trials, 2 trials at a time: each has 1 CPU," in said, said
        wait_until(lambda: not processes_of(tmp_path), "no process outlives the killed study")
        before, in_store = study.mlflow(), checkpoints_in(store, study)
        assert {"halving", "halving_00001"} <= before.keys()
        shutil.rmtree(study.outputs)

        monkeypatch.setenv("S2L_OUTPUTS", str(study.outputs))
        kept = study.file.read_text()
        study.file.write_text(kept.replace("0.003", "0.004", 1))
        assert "space.trainer.learning_rate" in refused(study.words, capsys)
        study.file.write_text(kept)

        output = output_of(study.start("tune", "--resume", store.uri("bucket/studies/halving")))
        wait_until(lambda: not processes_of(tmp_path), "no process outlives the study")

    table = study.table
    trials = {trial["name"]: trial for trial in table["trials"]}
    assert {name: list(trial["values"].values()) for name, trial in trials.items()} == {
        "halving_00001": [3e-3, "ppo"],
        "halving_00002": [3e-3, BROKEN],
        "halving_00003": [1e-9, "ppo"],
    }
    assert {name: (trial["status"], trial["step"]) for name, trial in trials.items()} == {
        "halving_00001": ("finished", STEPS),
        "halving_00002": ("failed", 0),
        "halving_00003": ("pruned", trials["halving_00003"]["step"]),
    }, output
    assert trials["halving_00003"]["step"] in table["rungs"] == [2, 4, 8]
    assert "ZeroDivisionError: in the loss" in trials["halving_00002"]["error"]
    # The three of them need the same of the explorer, which is recorded once.
    assert table["bank"]["ratio"] == pytest.approx(1 / 3)
    # The first trial goes on from the newest checkpoint that was whole in the store; nothing else was left of it.
    log = (study.trial(1) / "driver.log").read_text()
    assert re.findall(r"resumed after step (\d+)", log) == [str(in_store[-1])]

    after = study.mlflow()
    assert {name: after[name].info.run_id for name in before} == {n: run.info.run_id for n, run in before.items()}
    parent = after.pop("halving")
    assert parent.info.status == "FINISHED" and after.keys() == trials.keys()
    assert {run.data.tags["mlflow.parentRunId"] for run in after.values()} == {parent.info.run_id}
    assert {name: (run.info.status, run.data.tags.get("s2l.trial_status")) for name, run in after.items()} == {
        "halving_00001": ("FINISHED", None),
        "halving_00002": ("FAILED", None),
        "halving_00003": ("FINISHED", "pruned"),
    }
    best = str(study.outputs / study.name / "best.yaml")
    assert load_config(best).trainer.learning_rate == 3e-3
    assert main(["plan", best, "--inventory", inventory_of_two_cores(tmp_path)]) == 0


def inventory_of_two_cores(folder: Path) -> str:
    (folder / "nodes.yaml").write_text("nodes: [{gpus: 0, cpus: 2}]\n")
    return str(folder / "nodes.yaml")


# ---- exploits -------------------------------------------------------------------------------------------------------


def learner_engines(folder: Path) -> set[int]:
    """Process ids of the learner engines that live now."""
    found = set()
    for process in processes_of(folder):
        try:
            if process.cmdline()[0].startswith("ray::Learner"):
                found.add(process.pid)
        except (psutil.Error, IndexError):
            continue
    return found


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.long
def test_an_exploit_gives_the_worse_trial_the_donors_weights_without_an_engine_start(family: Family, tmp_path: Path):
    study = Study(
        family,
        tmp_path,
        "population",
        space={RATE: {"loguniform": [1.0e-6, 3.0e-3]}},
        trials=2,
        seed=1,
        scheduler={"kind": "pbt", "interval": 10, "quantile": 0.5},
        config={"schedule.kind": "off"},
        cpus_per_trial=1,
    )
    process, engines = study.start(), set()
    while process.poll() is None:
        engines |= learner_engines(tmp_path)
        time.sleep(0.5)
    output = output_of(process)
    assert processes_of(tmp_path) == []
    assert len(engines) == 2, (engines, output)

    (taker,) = [trial for trial in study.table["trials"] if trial["exploits"]]
    (donor,) = [trial for trial in study.table["trials"] if not trial["exploits"]]
    (exploit,) = taker["exploits"]
    assert (exploit["donor"], exploit["step"], exploit["own_step"]) == (donor["name"], 10, 10)
    assert exploit["changed"].keys() == {RATE}
    before, now = exploit["changed"][RATE]
    given_rate = donor["values"][RATE]
    assert taker["values"] == {RATE: now} and now != before != given_rate

    run_dirs = [study.outputs / study.name / trial["name"] for trial in (taker, donor)]
    taken, given = map(steps_of, run_dirs)
    # Step 11 is sampled from the weights after step 10, by the learner alone: the same to the token.
    assert [s["digest"] for s in taken[:11]] == [s["digest"] for s in given[:11]]
    assert [s["step"] for s in taken] == [s["step"] for s in given] == list(range(1, STEPS + 1))
    (branch,) = map(json.loads, (run_dirs[0] / "lineage.jsonl").read_text().splitlines())
    assert Path(branch["donor"]["directory"]).name == donor["name"] and branch["step"] == 10
    assert branch["changed"] == {RATE: [given_rate, now]}


# ---- before the trials ----------------------------------------------------------------------------------------------


def test_a_study_whose_bank_fails_says_how_it_goes_on_and_has_failed_in_mlflow(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    study = Study(family, tmp_path, "bankless", space={RATE: [1e-4, 2e-4]}, trials=2, cpus_per_trial=1)
    (tmp_path / "file").write_text("no bank")
    monkeypatch.setenv("S2L_OUTPUTS", str(study.outputs))
    assert main([*study.words, f"bank.path={tmp_path}/file"]) == 1
    said = capsys.readouterr()
    assert f"go on with\n  s2l tune --resume {study.outputs}/bankless" in said.out
    assert said.err.startswith("error: bank.path: ") and "Not a directory" in said.err
    assert study.mlflow()["bankless"].info.status == "FAILED"
    assert not ray.is_initialized()


# ---- refused before anything starts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            {"space": {"objective.mini_batch_prompts": {"grid": [4, 3, 8]}}},
            "1 of 3 trials cannot be run; .* trial 2 with objective.mini_batch_prompts=3: .* must divide",
        ),
        (
            {"space": {RATE: [1e-4, 2e-4]}, "trials": 2, "nodes_per_trial": 3},
            "nodes_per_trial",
        ),
        (
            {"space": {"rollout.group_size": [4, 8]}, "trials": 2, "scheduler": {"kind": "pbt"}},
            "with scheduler.kind: pbt .* which is impossible for rollout.group_size. Possible are objective.adv",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(
    file: dict[str, Any],
    says: str,
    family: Family,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    study = Study(family, tmp_path, "refused", **file)
    monkeypatch.setenv("S2L_OUTPUTS", str(study.outputs))
    said = refused(study.words, capsys)
    assert re.search(says.replace("(", r"\(").replace(")", r"\)"), said), said
    assert not ray.is_initialized()
    assert not list(study.outputs.glob("*")), "nothing is written"
