"""The MLflow run of a study, with real runs of trials nested below it, in a real store."""

from __future__ import annotations

import json
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from s2l_ray.cli import main
from s2l_ray.config import TrackingConfig, load_config
from s2l_ray.errors import DiskError, StorageError
from s2l_ray.experiments.memory import Memory
from s2l_ray.run.directory import LOCK
from s2l_ray.run.lock import RunLock
from s2l_ray.tracking import mlflow_tracker, opening
from s2l_ray.tracking.tracker import Tracker, open_tracker
from s2l_ray.tracking.undelivered import Entry, Undelivered, read_undelivered
from s2l_ray.tuning.driver import Ending, _Ready, _reported
from s2l_ray.tuning.observer import StudyObserver
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome
from s2l_ray.tuning.parent_run import ParentRun
from s2l_ray.tuning.place import StudyPlace, StudyState
from s2l_ray.tuning.preparing import PreparedStudy
from s2l_ray.tuning.report import write_report
from s2l_ray.tuning.space import Space
from s2l_ray.tuning.study_file import StudyFile
from tests.support.patience import PATIENCE_S, until
from tests.support.shared import built_once, shared_directory
from tests.support.studies import made_up, study, with_exploits

CONFIG = TrackingConfig(timeout_s=PATIENCE_S)


@pytest.fixture
def store(tmp_path: Path, tmp_path_factory, monkeypatch) -> Path:
    """A directory with a store that has no runs yet: making one takes seconds."""
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "RUN_ID"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    monkeypatch.setattr(mlflow_tracker, "STOP_S", PATIENCE_S)

    def build(fresh: Path) -> Path:
        from s2l_ray.tracking.mlflow_store import connect

        connect(f"sqlite:///{fresh}/mlflow.db", PATIENCE_S)
        return fresh / "mlflow.db"

    made = built_once(shared_directory(tmp_path_factory) / "empty-mlflow-store", build)
    shutil.copy(made, tmp_path / "mlflow.db")
    return tmp_path


def client(store: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")


def trial_of(parent: ParentRun, outcome: TrialOutcome) -> Tracker:
    """The MLflow run of a trial, as its process opens it."""
    return open_tracker(parent.tracking, Path(outcome.directory), outcome.name)


def remember(directory: Path, parent: ParentRun, finished: bool = False) -> None:
    """The study's state, as the driver keeps it."""
    config = _base().model_dump(mode="json") | {"tracking": parent._config.model_dump(mode="json")}
    state = StudyState("quickstart", config, {}, None, finished=finished)
    state.mlflow_run_id, state.mlflow_uri = parent.run_id, parent.uri
    StudyPlace(str(directory)).write(state)


def test_a_study_from_start_to_end(store: Path, capsys, monkeypatch):
    about = study(store / "tune_schedule", trials=6, study={"trials": 6, "space": {"schedule.mix_steps": [10, 20]}})
    outcomes = with_exploits(about, made_up(about))  # 1 and 4 pruned, 5 failed, the others finished
    parent = ParentRun.open(CONFIG, about)
    trackers = {outcome.name: trial_of(parent, outcome) for outcome in outcomes}
    outcomes = [replace(outcome, mlflow_run_id=trackers[outcome.name].run_id) for outcome in outcomes]
    for outcome in outcomes:
        parent.heard("ended", outcome)
    for name in ("tune_schedule_00000", "tune_schedule_00002"):
        trackers[name].finish()  # the processes of the others are killed before they can
    for tracker in trackers.values():
        tracker._writer.stop()
    facts = StudyFacts(61.0, {"tokens": 100, "path": "bank"}, parent.run_id, parent.uri)
    files = write_report(about, outcomes, facts, _base())
    assert parent.finish("FINISHED", outcomes, facts, files) is None

    run = client(store).get_run(parent.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "tune_schedule"
    assert run.data.params["study.space.schedule.mix_steps"] == "[10, 20]"
    best = max((o for o in outcomes if o.status == "finished"), key=lambda o: o.metric)
    assert run.data.tags["best_trial"] == best.name and run.data.tags["best_trial_run"] == best.mlflow_run_id
    assert run.data.metrics["best/eval/learner/pass_at_1"] == best.metric
    assert run.data.metrics["best/schedule.mix_steps"] == best.values["schedule.mix_steps"]
    assert (
        run.data.metrics["bank/tokens"] == 100 and run.data.tags["best/schedule.kind"] == best.values["schedule.kind"]
    )
    nested = client(store).search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'", order_by=["attributes.run_name"]
    )
    statuses = {found.info.run_name[-1]: found.info.status for found in nested}
    assert statuses == {"5": "FAILED"} | dict.fromkeys("01234", "FINISHED")
    artifacts = {artifact.path for artifact in client(store).list_artifacts(parent.run_id)}
    assert artifacts == {"trials.json", "tune.json", "best.yaml", "figures"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    table = client(store).load_table(run.info.experiment_id, "trials.json", [parent.run_id])
    assert table["trial"].iloc[0] == best.name and len(table) == 6
    figure = client(store).download_artifacts(parent.run_id, "figures/study.png")
    assert Path(figure).read_bytes() == files[2].read_bytes()
    remember(about.directory, parent, finished=True)
    assert main(["track", str(about.directory)]) == 0
    assert f"has everything of run {parent.run_id}" in capsys.readouterr().out


def _base():
    return load_config("quickstart")


def test_a_study_that_is_resumed_goes_on_in_its_run(store: Path):
    about = study(store / "s", trials=4)
    parent = ParentRun.open(CONFIG, about)
    first = made_up(about)
    parent.heard("ended", first[0])
    assert parent.finish("KILLED", first[:1], StudyFacts(1.0), []) is None
    assert client(store).get_run(parent.run_id).info.status == "KILLED"
    again = ParentRun.open(CONFIG, about, parent.run_id, parent.uri)
    again.heard("restored", first[0])
    again.heard("ended", first[2])
    assert again.run_id == parent.run_id
    assert again.finish("FINISHED", first, StudyFacts(2.0), []) is None
    history = client(store).get_metric_history(parent.run_id, "best/eval/learner/pass_at_1")
    assert [point.value for point in history] == [max(o.metric for o in first if o.status == "finished")]
    assert len(client(store).get_metric_history(parent.run_id, "study/seconds")) == 1
    assert client(store).get_run(parent.run_id).info.status == "FINISHED"


def test_what_cannot_be_written_at_the_end_is_said_and_the_run_ends_all_the_same(store: Path, capsys):
    about = study(store / "s", trials=1, name="s")
    place, file = StudyPlace(str(about.directory)), StudyFile.model_validate({"trials": 1, "space": {"seed": [1]}})
    state = StudyState("quickstart", {}, {}, None)
    prepared = PreparedStudy(place, state, file, load_config("quickstart"), Space({}), [], None)
    observer = StudyObserver(about)
    observer._outcomes = {outcome.name: outcome for outcome in made_up(about)}
    for name in ("tune.json", "study.yaml"):  # neither can be written
        (about.directory / name / "there").mkdir(parents=True)
    parent = ParentRun.open(CONFIG, about)
    result = _reported(prepared, _Ready(about, 1, parent, None, time.monotonic(), Ending()), observer, "FINISHED")
    said = " ".join(capsys.readouterr().out.split())
    assert [type(problem) for problem in result.problems] == [DiskError, StorageError]
    assert "tune.json" in said and "study.yaml" in said and "s2l tune --resume" in said
    assert [outcome.name for outcome in result.outcomes] == [outcome.name for outcome in made_up(about)]
    assert client(store).get_run(parent.run_id).info.status == "FINISHED"


def test_a_start_that_is_stopped_before_its_trials_ends_the_run_and_leaves_the_table_of_before(store: Path):
    about = study(store / "s", trials=4)
    parent = ParentRun.open(CONFIG, about)
    assert parent.finish("KILLED", made_up(about), StudyFacts(1.0), []) is None
    again = ParentRun.open(CONFIG, about, parent.run_id, parent.uri)
    assert client(store).get_run(parent.run_id).info.status == "RUNNING"
    assert again.finish("KILLED", [], StudyFacts(1.0), []) is None
    assert client(store).get_run(parent.run_id).info.status == "KILLED"
    assert len(json.loads((about.directory / "trials.json").read_text())["data"]) == 4


def test_a_study_that_is_stopped_ends_its_trials_runs_however_slow_the_store_is(store: Path, monkeypatch):
    """The process has been told to end before it asks for them."""
    about = study(store / "s", trials=1)
    outcome = replace(made_up(about)[0], status="stopped")
    parent = ParentRun.open(CONFIG, about)
    run_id = trial_of(parent, outcome).run_id
    monkeypatch.setattr(opening, "is_told", lambda: True)
    monkeypatch.setattr(opening, "POLL_S", 0.0)
    monkeypatch.setattr(opening, "TOLD_S", PATIENCE_S)
    assert parent.finish("KILLED", [outcome], StudyFacts(1.0), []) is None
    assert [client(store).get_run(one).info.status for one in (parent.run_id, run_id)] == ["KILLED", "KILLED"]


def test_trials_that_were_killed_are_ended_also_when_something_of_the_study_is_refused(store: Path):
    about = study(store / "s", trials=1)
    outcome = replace(made_up(about)[0], status="stopped")
    parent = ParentRun.open(CONFIG, about)
    trial = trial_of(parent, outcome)
    trial._writer.stop()
    said = parent.finish("FINISHED", [outcome], StudyFacts(1.0), [store / "gone.yaml"])
    assert said is not None and "will lack 1 file" in said and "as running" not in said
    assert client(store).get_run(trial.run_id).info.status == "KILLED"


def test_trials_track_where_the_study_does_and_no_password_is_in_their_configuration(store: Path, monkeypatch):
    about = study(store / "s", trials=1)
    parent = ParentRun.open(CONFIG, about)
    parent.finish("KILLED", [], StudyFacts(1.0), [])
    assert parent.tracking.uri == f"sqlite:///{store}/mlflow.db" and parent.tracking.parent_run == parent.run_id
    off = ParentRun.open(CONFIG.model_copy(update={"enabled": False}), about)
    assert (off.run_id, off.tracking.uri, off.tracking.parent_run, off.problem) == (None, None, None, None)
    assert off.finish("FINISHED", made_up(about), StudyFacts(1.0), []) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    secret = ParentRun(CONFIG, about, off._tracker)
    assert secret.tracking.uri is None


def test_a_server_that_goes_away_is_said_and_what_it_lacks_is_kept(store: Path, monkeypatch):
    about = study(store / "s", trials=4)
    parent = ParentRun.open(CONFIG, about)
    outcomes = made_up(about)
    trial = trial_of(parent, outcomes[0])
    trial._writer.stop()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{unused.getsockname()[1]}"

    def refuse(*args: object) -> None:
        raise ConnectionRefusedError(f"{gone} refused")

    monkeypatch.setattr("s2l_ray.tracking.deliveries.probe", refuse)
    monkeypatch.setattr(parent._tracker, "_timeout_s", 0.5)
    notes: list[str] = []
    problems = parent.problems(notes.append)
    for outcome in outcomes:
        parent.heard("ended", outcome)
    until(lambda: parent.problem is not None)
    problems("step", outcomes[0])
    problems("step", outcomes[0])
    assert len(notes) == 1 and "refused" in notes[0]
    said = parent.finish("FINISHED", outcomes, StudyFacts(1.0), [])
    assert said is not None and "refused" in said and f"s2l track {about.directory}" in said
    left = read_undelivered(about.directory / "undelivered.jsonl")
    assert {"metrics", "file", "status"} <= {entry.kind for entry in left}


@pytest.mark.parametrize(("experiment", "status"), [(False, "KILLED"), (True, "FINISHED")])
def test_the_command_sends_what_a_killed_study_and_a_finished_experiment_left(
    store: Path, capsys, monkeypatch, experiment: bool, status: str
):
    """Neither has a tune.json, and the store is the one that the configuration names, not the one beside the study."""
    about = study(store / "outputs" / "s", trials=1)
    parent = ParentRun.open(CONFIG.model_copy(update={"uri": f"sqlite:///{store}/mlflow.db"}), about)
    assert parent._tracker._writer.wait(time.monotonic() + PATIENCE_S)
    parent._tracker._writer.stop()  # as SIGKILL
    remember(about.directory, parent, finished=experiment)
    if experiment:
        Memory({}, []).write(StudyPlace(str(about.directory)))
    left = [Entry("tags", str(parent.run_id), {"late": "1"})]
    Undelivered(about.directory / "undelivered.jsonl", left).close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/another.db")
    assert main(["track", str(about.directory)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"sent 1 set of tags, 1 status to MLflow at sqlite:///{store}/mlflow.db")
    assert "MLFLOW_TRACKING_URI was not used: the configuration in that directory has tracking.uri" in said
    assert not (store / "another.db").exists()
    run = client(store).get_run(parent.run_id)
    assert (run.info.status, run.data.tags["late"]) == (status, "1")
    assert not (store / "outputs" / "mlflow.db").exists()


def test_the_command_leaves_a_study_alone_that_is_running(store: Path, capsys):
    about = study(store / "s", trials=1)
    parent = ParentRun.open(CONFIG, about)
    remember(about.directory, parent)
    table = {"mlflow_run_id": parent.run_id, "mlflow_uri": parent.uri, "trials": []}  # of an earlier start
    (about.directory / "tune.json").write_text(json.dumps(table))
    lock = RunLock.acquire(about.directory / LOCK, 1.0, print)
    file = (about.directory / "undelivered.jsonl").stat().st_ino
    assert main(["track", str(about.directory)]) == 1
    said = capsys.readouterr().err
    assert f"another process is writing to {about.directory}: process" in said and said.endswith("; wait for it\n")
    assert client(store).get_run(parent.run_id).info.status == "RUNNING"
    assert (about.directory / "undelivered.jsonl").stat().st_ino == file
    lock.close()
    assert parent.finish("FINISHED", [], StudyFacts(1.0), []) is None
