"""What Tune does with a trial's checkpoints, over actors that do nothing: save, go on after a kill, exploit a donor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.errors import ConfigError, DataError, StorageError
from s2l_ray.reporter import SilentReporter
from s2l_ray.run import training_run
from s2l_ray.run import uploader as uploading
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.from_mirror import open_mirror
from s2l_ray.run.lineage import Donor, Lineage
from s2l_ray.run.training_run import TrainingRun
from s2l_ray.step_log import StepLog
from s2l_ray.trials.pointer import POINTER, Pointer, follow, terms_of
from s2l_ray.trials.trial import as_trial
from tests.support.object_stores import Store, s3
from tests.support.training_runs import Graph, set_up_over

RATE = "trainer.learning_rate"


class Trial:
    """A trial of a study whose storage is the directory `results`, or a store.

    Args:
        name: of it.
        folder: for everything of this test.
        monkeypatch: of the test.
        uri: of the store.
        given: settings of all trials.
    """

    def __init__(
        self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None = None, **given: Any
    ) -> None:
        self.name, self.folder, self.graph, self._patch = name, folder, Graph(), monkeypatch
        files, path = pyarrow.fs.FileSystem.from_uri(uri or str(folder / "results"))
        self.path = f"{path}/study/{name}"
        self.storage = SimpleNamespace(storage_filesystem=files, trial_fs_path=self.path, trial_dir_name=name)
        self._given = {"run_dir": None if uri is None else str(folder / f"node of {name}"), **given}
        self._saved = 0

    def config(self, **changed: Any) -> Config:
        path = self.folder / "run.yaml"
        path.write_text(
            "name: mine\nmodels: {learner: a, explorer: b, dtype: float32}\ndata: {train: x.jsonl}\n"
            "schedule: {steps: 40, mix_steps: 2}\n"
            "checkpoint: {every: 2, keep: 1, mirror_timeout_s: 60, asynchronous: false}\n"
        )
        return as_trial(load_config(path, self._given | changed), self.storage, self.name)

    @contextmanager
    def run(self, steps: int = 0, **changed: Any) -> Iterator[TrainingRun]:
        """Set up as Tune does, with these settings. The weights after each step are named by trial and rate."""
        self._patch.setattr(training_run, "set_up", set_up_over(self.graph))
        self.graph.weights = "initial"
        with TrainingRun(self.config(**changed), SilentReporter(), terms=terms_of(self.storage)) as run:
            train(run, self, steps)
            yield run

    def save(self, run: TrainingRun) -> Path:
        """What Tune does with a checkpoint; where Tune's storage is local, it is its directory there, else a copy."""
        local = self.folder / "saved" / f"{self.name} {self._saved}"
        local.mkdir(parents=True, exist_ok=True)
        Pointer.to(run).write(local)
        there = f"{self.path}/checkpoint_{self._saved:06d}"
        self.storage.storage_filesystem.create_dir(there)
        pyarrow.fs.copy_files(str(local), there, destination_filesystem=self.storage.storage_filesystem)
        self._saved += 1
        return local


def train(run: TrainingRun, trial: Trial, steps: int) -> None:
    for _ in range(steps):
        step = run.steps_done + 1
        trial.graph.weights = f"{trial.name} {step} at {run.settings.trainer.learning_rate:g}"
        run.step()


def restore(run: TrainingRun, saved: Path) -> None:
    pointer = Pointer.read(saved)
    assert pointer is not None
    follow(pointer, run)


def checkpoints(run: TrainingRun) -> list[str]:
    return sorted(path.parent.name for path in run.settings.run_path.glob("checkpoints/*/state.json"))


@pytest.fixture
def a(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    return Trial("study_00000", tmp_path, monkeypatch)


@pytest.fixture
def b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    return Trial("study_00001", tmp_path, monkeypatch)


# ---- of one trial ---------------------------------------------------------------------------------------------------


def test_what_tune_keeps_is_a_pointer_to_the_runs_own_checkpoint_of_the_step(a: Trial):
    with a.run(steps=1) as run:
        saved = a.save(run)
        assert [path.name for path in saved.iterdir()] == [POINTER]
        pointer = Pointer.read(saved)
        assert pointer == Pointer(run.state.id, a.path, None, "step-000001")
        assert (run.settings.run_path / "checkpoints" / "step-000001" / "trainer" / "version").read_text() == "1"
        train(run, a, 1)
        before = a.graph.calls.count("save")
        assert Pointer.to(run).checkpoint == "step-000002"
        assert a.graph.calls.count("save") == before  # the step's own was due
    assert Pointer.read(saved.parent) is None
    for text in ("{}", '{"run": "a", "directory": "b", "mirror": null, "checkpoint": "../x"}'):
        (saved / POINTER).write_text(text)
        with pytest.raises(DataError, match="pointer.json is"):
            Pointer.read(saved)


def test_a_run_that_was_killed_is_not_set_back_by_an_older_pointer(a: Trial):
    with a.run(steps=1) as run:
        saved = a.save(run)
        train(run, a, 2)  # of which the second has a checkpoint, and the third has none
    with a.run() as run:
        assert (run.state.place, a.graph.weights) == ((0, 2), "study_00000 2 at 1e-06")
        loads = a.graph.calls.count("load")
        restore(run, saved)
        assert (run.state.place, a.graph.calls.count("load")) == ((0, 2), loads)
        train(run, a, 2)
        assert not (run.settings.run_path / "lineage.jsonl").exists()


def test_a_checkpoint_stays_while_a_pointer_of_tunes_names_it(a: Trial):
    with a.run(steps=1) as run:
        a.save(run)
        (Path(a.path) / "checkpoint_000009").mkdir()  # Tune has not copied the pointer yet
        train(run, a, 3)
        assert checkpoints(run) == ["step-000001", "step-000004"]
        shutil.rmtree(Path(a.path) / "checkpoint_000000")
        train(run, a, 2)
        assert checkpoints(run) == ["step-000006"]


def test_a_pointer_whose_checkpoint_is_nowhere_whole_says_so(a: Trial, b: Trial):
    with a.run(steps=2) as run:
        saved = a.save(run)
        (run.settings.run_path / "checkpoints" / "step-000002" / "state.json").unlink()
    with b.run() as run, pytest.raises(ConfigError, match="asks for step-000002 of .*study_00000, which is not there"):
        restore(run, saved)


# ---- a donor --------------------------------------------------------------------------------------------------------


def test_an_exploit_takes_the_donors_state_and_keeps_its_own_settings(a: Trial, b: Trial):
    with a.run(steps=4) as donor:
        saved = a.save(donor)
    with b.run(steps=2, **{RATE: 1e-3}) as run:
        own = run.state.id
        b.save(run)
    with b.run(**{RATE: 2e-3}) as run:
        assert (run.state.place, run.state.id) == ((0, 0), own)  # none of its own checkpoints is of these settings
        restore(run, saved)
        assert (run.state.place, b.graph.weights, b.graph.version) == ((1, 4), "study_00000 4 at 1e-06", 4)
        path = run.settings.run_path
        (branch,) = Lineage(path).read()
        assert (branch.number, branch.step, branch.changed) == (1, 4, {RATE: (1e-06, 2e-3)})
        assert branch.donor == Donor(donor.state.id, a.path, "step-000004")
        assert branch.describe() == f"step 4 of study_00000; {RATE} 1e-06 -> 0.002"
        assert load_config(path / "config.yaml").trainer.learning_rate == 2e-3
        # The steps are the donor's, those that it had itself are kept aside.
        assert [record.step for record in StepLog(path / "steps.jsonl").read()] == [1, 2, 3, 4]
        assert [record.step for record in StepLog(path / "steps-branch-0.jsonl").read()] == [1, 2]
        train(run, b, 2)
        assert checkpoints(run) == ["step-000002", "step-000006-branch-1"]  # the first is named by a pointer


def test_a_failure_after_an_exploit_does_not_set_the_trial_back_to_the_donor(a: Trial, b: Trial):
    with a.run(steps=4) as donor:
        saved = a.save(donor)
        train(donor, a, 4)
        later = a.save(donor)
    with b.run(steps=2, **{RATE: 1e-3}):
        pass
    with b.run(**{RATE: 2e-3}) as run:
        restore(run, saved)
        train(run, b, 3)  # of which the second has a checkpoint
    with b.run(**{RATE: 2e-3}) as run:  # Tune has seen no checkpoint of its own since, and gives it the donor's again
        loads = b.graph.calls.count("load")
        restore(run, saved)
        assert (run.state.place, b.graph.weights) == ((1, 6), "study_00001 6 at 0.002")
        assert b.graph.calls.count("load") == loads
        train(run, b, 2)
        path = run.settings.run_path
        assert [(branch.number, branch.step) for branch in Lineage(path).read()] == [(1, 4)]
        restore(run, later)  # the next exploit of the same donor
        assert (run.state.place, b.graph.weights) == ((2, 8), "study_00000 8 at 1e-06")
    with b.run(**{RATE: 3e-3}) as run:  # with other values, even the same checkpoint is another exploit
        restore(run, later)
        assert run.state.place == (3, 8)


def test_an_exploit_that_was_interrupted_is_the_same_one_when_tune_repeats_it(a: Trial, b: Trial):
    with a.run(steps=4) as donor:
        saved = a.save(donor)
    with b.run(steps=2, **{RATE: 1e-3}):
        pass
    for _ in range(2):  # killed before its first checkpoint
        with b.run(**{RATE: 2e-3}) as run:
            restore(run, saved)
            assert run.state.place == (1, 4)
            train(run, b, 1)
    assert len(Lineage(run.settings.run_path).read()) == 1
    kept = StepLog(run.settings.run_path / "steps-branch-0.jsonl").read()
    assert [record.step for record in kept] == [1, 2]


def test_an_exploit_that_tune_does_not_know_of_after_a_kill_is_undone(a: Trial, b: Trial):
    with a.run(steps=4) as donor:
        saved = a.save(donor)
    with b.run(steps=2, **{RATE: 1e-3}) as run:
        own = b.save(run)
    with b.run(**{RATE: 2e-3}) as run:
        restore(run, saved)
        train(run, b, 2)
    with b.run(**{RATE: 1e-3}) as run:  # its settings and its pointer from before
        restore(run, own)
        assert (run.state.place, b.graph.weights) == ((0, 2), "study_00001 2 at 0.001")
        train(run, b, 2)
        assert run.state.place == (2, 4)
        assert checkpoints(run) == ["step-000002", "step-000004-branch-2"]
        assert [branch.donor.run == run.state.id for branch in Lineage(run.settings.run_path).read()] == [False, True]


def test_other_settings_for_its_own_state_begin_a_branch(a: Trial):
    with a.run(steps=3) as run:
        saved = a.save(run)
    with a.run(**{RATE: 2e-3}) as run:
        assert run.state.place == (0, 0)
        restore(run, saved)
        assert (run.state.place, a.graph.weights) == ((1, 3), "study_00000 3 at 1e-06")
        (branch,) = Lineage(run.settings.run_path).read()
        assert (branch.donor.run, branch.changed) == (run.state.id, {RATE: (1e-06, 2e-3)})


def test_a_trial_that_tune_begins_anew_with_other_settings_begins_at_the_first_step(a: Trial):
    with a.run(steps=3):
        pass
    with a.run(**{RATE: 2e-3}) as run:
        path = run.settings.run_path
        assert len(StepLog(path / "steps.jsonl").read()) == 3  # until it is known whether Tune gives it a state
        train(run, a, 1)
        assert [record.step for record in StepLog(path / "steps.jsonl").read()] == [1]
        assert len(StepLog(path / "steps-branch-0.jsonl").read()) == 3
        assert run.state.place == (1, 1)


def test_only_what_an_exploit_may_change_differs_and_only_in_a_trial(a: Trial):
    with a.run(steps=2, **{"objective.loss": "ppo"}):
        pass
    with (
        pytest.raises(ConfigError, match=r"trainer.lora_rank was 0, now 8: it makes another model"),
        a.run(**{"trainer.lora_rank": 8, "objective.loss": "gspo"}),
    ):
        pass
    with a.run(**{"objective.loss": "gspo"}):
        pass
    with pytest.raises(ConfigError, match="objective.loss was 'gspo', now 'ppo'"):
        TrainingRun(a.config(), SilentReporter())
    # As a run of its own it goes on with the settings that it has, from a checkpoint of these settings.
    settings = a.config(**{"objective.loss": "gspo"})
    with pytest.raises(ConfigError, match=r"step-000002 was trained with other settings \(objective.loss was 'ppo'"):
        TrainingRun(settings, SilentReporter())
    RunDirectory.acquire(settings).close()  # it is not held


# ---- in a store -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_s3() -> Iterator[Store]:
    with s3() as store:
        yield store


@pytest.fixture
def store(in_s3: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(uploading, "RETRY_S", (0.05, 0.1))
    monkeypatch.setattr("s2l_ray.machine.storage.TRIES", 1)
    yield in_s3
    in_s3.fails = lambda method, path: False


def test_only_the_store_need_be_shared(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = store.uri(f"bucket/{tmp_path.name}")
    a, b = (Trial(name, tmp_path, monkeypatch, uri) for name in ("study_00000", "study_00001"))
    with a.run(steps=1) as donor:
        first = a.save(donor)
        train(donor, a, 2)
        second = a.save(donor)
    # Tune's files and the run's are in one directory of the store, with what Tune may still ask for.
    mirror = open_mirror(donor.settings)
    assert mirror is not None and str(mirror) == f"s3://bucket/{tmp_path.name}/study/study_00000"
    assert terms_of(a.storage).pointed() == {"step-000001", "step-000003"} == set(mirror.checkpoints())
    shutil.rmtree(donor.settings.run_path)  # its node has gone
    with b.run(steps=2, **{RATE: 1e-3}):
        pass
    with b.run(**{RATE: 2e-3}) as run:
        restore(run, second)
        assert (run.state.place, b.graph.weights) == ((1, 3), "study_00000 3 at 1e-06")
        assert not (run.settings.run_path / ".donated").exists()
        train(run, b, 1)
        b.save(run)
    shutil.rmtree(run.settings.run_path)
    with b.run(**{RATE: 2e-3}) as run:  # on another node
        assert (run.state.place, b.graph.weights) == ((1, 4), "study_00001 4 at 0.002")
        assert len(Lineage(run.settings.run_path).read()) == 1
    with a.run() as run:
        restore(run, first)
        assert run.state.place == (0, 3)


def test_a_study_in_another_store_does_not_go_on_with_what_one_has_left_on_a_node(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = (store.uri(f"bucket/{tmp_path.name}/{name}") for name in ("first", "second"))
    a = Trial("study_00000", tmp_path, monkeypatch, first)
    with a.run(steps=2):
        pass
    with a.run() as run:
        assert run.state.place == (0, 2)
    other = Trial("study_00000", tmp_path, monkeypatch, second)
    with (
        pytest.raises(
            ConfigError, match=r"whose mirror is s3://bucket/.*/first/study, .* this one's is s3://.*/second"
        ),
        other.run(),
    ):
        pass


def test_a_store_that_fails_is_one_clear_error_and_the_checkpoint_is_whole_on_disk(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = store.uri(f"bucket/{tmp_path.name}")
    a = Trial("study_00000", tmp_path, monkeypatch, uri, **{"checkpoint.mirror_timeout_s": 0.5})
    with a.run(steps=1) as run:
        store.fails = lambda method, path: method in ("PUT", "POST")
        with pytest.raises(StorageError, match=r"step-000001 is not in s3://bucket/.* after 0.5 s \(.*it is whole in"):
            a.save(run)
        assert checkpoints(run) == ["step-000001"]
        store.fails = lambda method, path: True
        train(run, a, 3)
        assert checkpoints(run) == [
            "step-000001",
            "step-000002",
            "step-000004",
        ]  # it is not known what Tune may ask for
        store.fails = lambda method, path: False
        pointer = Pointer.read(a.save(run))
        assert pointer is not None and pointer.checkpoint == "step-000004"
