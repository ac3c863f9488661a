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

from s2l_ray.cli import main
from s2l_ray.miniature.build import Family
from tests.support.object_stores import s3
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config
from tests.support.train_command import output_of, processes_of, start_s2l, steps_of, wait_until, words_of

STEPS, EVERY = 8, 2


class Study:
    """A study of short runs in a folder of its own: its file, and the command's words."""

    def __init__(self, family: Family, folder: Path, name: str, **file: Any) -> None:
        self.folder, self.name = folder, name
        self.outputs = folder / "outputs"
        """Of this machine, and all that it writes but MLflow's database."""
        self.file = folder / f"{name}.yaml"
        self.file.write_text(yaml.safe_dump(file))
        settings = run_config(family, folder) | {
            "schedule.steps": STEPS,
            "schedule.mix_steps": 3,
            "checkpoint.every": EVERY,
            "evaluation.every": EVERY,
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

    def steps_done(self, number: int) -> int:
        log = self.trial(number) / "steps.jsonl"
        return len(steps_of(self.trial(number))) if log.exists() else 0

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


# ---- a study of which only the store is left -----------------------------------------------------------------------


@pytest.mark.timeout(3 * PATIENCE_S)
def test_a_killed_study_goes_on_from_its_store_beside_a_trial_that_fails_for_good(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Trial 2 and 4 fail in every start: an answer is never there within that time. Trial 3 learns nothing."""
    with s3() as store:
        study = Study(
            family,
            tmp_path,
            "halving",
            storage=store.uri("bucket/studies"),
            space={
                "trainer.learning_rate": [3.0e-3, 1.0e-9],
                "objective.loss": ["ppo", "tests.support.losses:is_broken"],
            },
            trials=3,
            seed=55,
            scheduler={"kind": "asha", "grace": EVERY, "reduction_factor": 2},
            cpus_per_trial=1,
            max_failures=0,
        )
        study.settings["bank.path"] = str(tmp_path / "bank")
        first = study.start()
        wait_until(lambda: study.steps_done(1) >= 3 or first.poll() is not None, "three steps of trial 1")
        assert first.poll() is None, first.communicate()[0]
        before, done = study.mlflow(), study.steps_done(1)
        first.kill()
        said = first.communicate(timeout=PATIENCE_S)[0]
        wait_until(lambda: not processes_of(tmp_path), "no process outlives the killed study")
        assert "2 at once" in said or "2 trials" in said, said
        shutil.rmtree(study.outputs)

        monkeypatch.setenv("S2L_OUTPUTS", str(study.outputs))
        other = Study(family, tmp_path, "halving", **yaml.safe_load(study.file.read_text()) | {"seed": 2})
        print(refused(other.words, capsys))

        url = store.uri("bucket/studies/halving")
        output = output_of(study.start("tune", "--resume", url))
        print(output)
        wait_until(lambda: not processes_of(tmp_path), "no process outlives the study")
        print(json.dumps(study.table, indent=1))
        after = study.mlflow()
        for name, run in after.items():
            print(name, run.info.run_id, run.info.status, run.data.tags)
        print({name: run.info.run_id for name, run in before.items()}, done)
        print(sorted(str(p.relative_to(tmp_path)) for p in study.outputs.rglob("*") if p.is_file()))
        print((study.trial(1) / "driver.log").read_text())
        assert False


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
def test_an_exploit_gives_the_worse_trial_the_donors_weights_without_an_engine_start(family: Family, tmp_path: Path):
    study = Study(
        family,
        tmp_path,
        "population",
        space={"trainer.learning_rate": {"loguniform": [1.0e-6, 3.0e-3]}},
        trials=2,
        seed=1,
        scheduler={"kind": "pbt", "interval": 4, "quantile": 0.5},
        config={"schedule.kind": "off"},
        cpus_per_trial=1,
    )
    process, engines = study.start(), set()
    while process.poll() is None:
        engines |= learner_engines(tmp_path)
        time.sleep(0.5)
    output = output_of(process)
    assert processes_of(tmp_path) == []
    assert len(engines) == 2, output

    (taker,) = [trial for trial in study.table["trials"] if trial["exploits"]]
    (donor,) = [trial for trial in study.table["trials"] if not trial["exploits"]]
    (exploit,) = taker["exploits"]
    assert (exploit["donor"], exploit["step"], exploit["own_step"]) == (donor["name"], 4, 4)
    assert exploit["changed"].keys() == {"trainer.learning_rate"}
    before, now = exploit["changed"]["trainer.learning_rate"]
    assert (
        taker["values"] == {"trainer.learning_rate": now} and now != before != donor["values"]["trainer.learning_rate"]
    )

    taken, given = (steps_of(study.outputs / study.name / trial["name"]) for trial in (taker, donor))
    # Step 5 is sampled from the weights after step 4, by the learner alone: the same to the token.
    assert [s["digest"] for s in taken[:5]] == [s["digest"] for s in given[:5]]
    assert [s["step"] for s in taken] == [s["step"] for s in given] == list(range(1, STEPS + 1))
    (branch,) = map(json.loads, (study.outputs / study.name / taker["name"] / "lineage.jsonl").read_text().splitlines())
    print(output, branch, json.dumps(study.table, indent=1))
    assert Path(branch["donor"]["directory"]).name == donor["name"] and branch["step"] == 4
    assert branch["changed"] == {"trainer.learning_rate": [donor["values"]["trainer.learning_rate"], now]}
    assert False


# ---- refused before anything starts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            {"space": {"objective.mini_batch_prompts": {"grid": [4, 3, 8]}}},
            "1 of 3 trials cannot be run; .* trial 2 (objective.mini_batch_prompts=3) is impossible: .* must divide",
        ),
        (
            {"space": {"trainer.learning_rate": [1e-4, 2e-4]}, "trials": 2, "nodes_per_trial": 3},
            "nodes_per_trial|placement.nodes",
        ),
        (
            {"space": {"rollout.group_size": [4, 8]}, "trials": 2, "scheduler": {"kind": "pbt"}},
            "with scheduler.kind: pbt .* which is impossible for rollout.group_size. Possible are objective.advantage, ",
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
    assert not ray.is_initialized() and not study.outputs.exists()
