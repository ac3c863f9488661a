"""What a run undoes, and in which order: with everything that takes a process replaced by a record of calls."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from s2l_ray.bank.rollout_bank import BankSettings
from s2l_ray.compute import ComputeMeter
from s2l_ray.config import Config, load_config
from s2l_ray.errors import ConfigError, PlacementError, TrackingError
from s2l_ray.reporter import SilentReporter
from s2l_ray.run import planning, run_actors
from s2l_ray.run import set_up as setting_up
from s2l_ray.run.description import describe, git_commit, tags_of
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.inputs import Inputs
from s2l_ray.run.set_up import set_up
from s2l_ray.run.tracking import RunTracking
from s2l_ray.run.uploader import Uploader
from s2l_ray.tracking.tracker import NoTracker
from tests.support.run_directories import CONTENTS


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text("name: mine\nmodels: {learner: a, explorer: b}\ndata: {train: x.jsonl, chat: false}\n")
    return load_config(path, {"run_dir": str(tmp_path / "run")})


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been undone so far, in order. A private Ray is started."""
    done: list[str] = []

    class Graph:
        def __init__(self, *args: object, **more: object) -> None: ...

        def start(self, first_step: int) -> None: ...

        def close(self) -> None:
            done.append("actors")

    class Recorded(NoTracker):
        def finish(self, status: str = "FINISHED", brief: bool = False) -> None:
            done.append(f"MLflow {status}")

    def close(run: RunDirectory) -> None:
        done.append("lock")
        run._lock.close()

    def copied(uploader: Uploader, timeout_s: float) -> None:
        done.append(f"copied within {timeout_s:g} s")

    inputs = Inputs({}, [], [], CONTENTS)
    plan = SimpleNamespace(layout=object(), problems=())
    monkeypatch.setattr(setting_up, "load_inputs", lambda config: inputs)
    monkeypatch.setattr(run_actors, "connect", lambda cluster, note: True)
    monkeypatch.setattr(run_actors, "end_private_ray", lambda: done.append("Ray"))
    monkeypatch.setattr(planning, "nodes_to_plan_for", lambda config, on_wait: SimpleNamespace(specs=()))
    monkeypatch.setattr(setting_up, "compute_meter", lambda config: ComputeMeter({}))
    monkeypatch.setattr(setting_up, "prepare_bank", lambda config, train: None)
    monkeypatch.setattr(setting_up, "known_stragglers", lambda config, train, own: {})
    monkeypatch.setattr(planning, "make_plan", lambda config, inventory, dtype: plan)
    monkeypatch.setattr(setting_up, "plan_json", lambda plan, models: "{}")
    monkeypatch.setattr(run_actors, "ActorGraph", Graph)
    monkeypatch.setattr("s2l_ray.run.tracking.open_tracker", lambda *args: Recorded())
    monkeypatch.setattr(RunDirectory, "close", close)
    monkeypatch.setattr(Uploader, "close", copied)
    return done


ORDER = ["actors", "lock", "Ray"]


def test_mlflow_ends_first_then_actors_then_the_lock_then_a_private_ray(config: Config, undone: list[str]):
    with ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
        assert undone == []
    assert undone == ["MLflow KILLED", *ORDER]


def test_a_ray_that_others_started_is_left_alone(config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_actors, "connect", lambda cluster, note: False)
    with ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
    assert undone == ["MLflow KILLED", "actors", "lock"]


@pytest.mark.parametrize(("error", "seconds"), [(KeyboardInterrupt(), 5), (ValueError("a bug"), 600)])
def test_copies_to_the_mirror_are_waited_for_when_the_actors_have_gone_and_shortly_after_a_signal(
    error: BaseException, seconds: int, config: Config, undone: list[str], tmp_path: Path
):
    checkpoint = config.checkpoint.model_copy(update={"mirror": str(tmp_path / "mirror")})
    with pytest.raises(type(error)), ExitStack() as stack:
        set_up(config.model_copy(update={"checkpoint": checkpoint}), SilentReporter(), stack)
        raise error
    assert undone[1:] == ["actors", f"copied within {seconds} s", "lock", "Ray"]


@pytest.mark.parametrize("nested", [True, False])
def test_a_server_that_is_away_stops_no_run_that_is_nested_under_another(
    nested: bool, config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch
):
    def away(*args: object) -> NoReturn:
        raise TrackingError("no answer from MLflow")

    class Notes(SilentReporter):
        def note(self, text: str) -> None:
            undone.append(text)

    monkeypatch.setattr("s2l_ray.run.tracking.open_tracker", away)
    tracking = config.tracking.model_copy(update={"parent_run": "0" * 32 if nested else None})
    begun = config.model_copy(update={"tracking": tracking})
    with nullcontext() if nested else pytest.raises(TrackingError), ExitStack() as stack:
        assert set_up(begun, Notes(), stack).tracking.tracker.run_id is None
    said = f"not tracked for now: no answer from MLflow. s2l track {config.run_dir} logs this run when it is over"
    assert (said in undone) == nested


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("a bug"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (None, "KILLED")]
)
def test_mlflow_is_told_how_the_run_ended(error: BaseException | None, status: str, config: Config, undone: list[str]):
    def run() -> None:
        with ExitStack() as stack:
            set_up(config, SilentReporter(), stack)
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    assert undone == [f"MLflow {status}", *ORDER]


def test_a_run_that_got_to_its_end_is_finished_whatever_stops_it_then(config: Config, undone: list[str]):
    def run() -> None:
        with ExitStack() as stack:
            set_up(config, SilentReporter(), stack).tracking.finished = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert undone == ["MLflow FINISHED", *ORDER]


def test_what_was_set_up_before_an_error_is_undone(config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch):
    plan = SimpleNamespace(layout=None, problems=("too large",))
    monkeypatch.setattr(planning, "make_plan", lambda config, inventory, dtype: plan)
    sliced = config.model_copy(update={"placement": config.placement.model_copy(update={"cpus": 0.5})})
    said = "no placement: too large; it was planned for placement.cpus=0.5 alone"
    with pytest.raises(PlacementError, match=said), ExitStack() as stack:
        set_up(sliced, SilentReporter(), stack)
    assert undone == ["lock", "Ray"] and not (config.run_path / "config.yaml").exists()
    RunDirectory.acquire(config).close()  # nobody holds it


def test_actors_are_stopped_and_the_rest_undone_where_one_fails(
    config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch
):
    def fail(graph: object) -> None:
        undone.append("actors")
        raise RuntimeError("an actor hangs")

    monkeypatch.setattr(run_actors.ActorGraph, "close", fail)
    with pytest.raises(RuntimeError, match="an actor hangs"), ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
    assert undone == ["MLflow KILLED", *ORDER]


def test_actors_that_were_still_starting_are_stopped_after_mlflow(
    config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch
):
    def start(graph: object, first_step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_actors.ActorGraph, "start", start)
    with pytest.raises(KeyboardInterrupt), ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
    assert undone == ["MLflow KILLED", *ORDER]


def test_what_mlflow_did_not_take_is_a_note_and_hides_no_error():
    notes: list[str] = []

    class Noting(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    class Full(NoTracker):
        def finish(self, status: str = "FINISHED", brief: bool = False) -> None:
            raise TrackingError("MLflow did not take the last 3 entries")

    with pytest.raises(ValueError, match="a bug"), RunTracking(Full(), Noting()):
        raise ValueError("a bug")
    assert notes == ["MLflow did not take the last 3 entries"]


def test_mlflow_has_a_model_for_every_checkpoint_that_is_kept(tmp_path: Path):
    told: list[tuple] = []

    class Models(NoTracker):
        def log_model(self, name: str, step: int, params: dict[str, str]) -> None:
            told.append((name, step, params["path"]))

        def forget_model(self, name: str) -> None:
            told.append((name,))

    tracking = RunTracking(Models(), SilentReporter())
    paths = [tmp_path / f"step-00000{step}" for step in (2, 4, 6)]
    tracking.models([(2, paths[0])])
    tracking.models([(2, paths[0]), (4, paths[1])])
    tracking.models([(4, paths[1]), (6, paths[2])])
    added = [(path.name, step, str(path)) for step, path in zip((2, 4, 6), paths, strict=True)]
    assert told == [*added[:2], ("step-000002",), added[2]]


def test_a_run_is_tagged_with_what_one_searches_for(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    submitted = {"metadata": {"job_submission_id": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    monkeypatch.chdir(tmp_path)
    tags = tags_of(config, BankSettings("/bank", "0123456789abcdef/shards", True, True))
    assert tags == {
        "explorer": "b",
        "learner": "a",
        "schedule": config.schedule.kind,
        "T_mix": str(config.schedule.mix_steps),
        "G": str(config.rollout.group_size),
        "bank_fingerprint": "0123456789abcdef",
        "mlflow.source.name": "s2l-ray",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": head.stdout.strip(),
        "ray_job_id": "raysubmit_1",
    }
    assert git_commit(tmp_path / "nowhere") is None


def test_the_drivers_log_hears_of_what_mlflow_lacks_at_the_end(
    config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch
):
    class Full(NoTracker):
        def finish(self, status: str = "FINISHED", brief: bool = False) -> None:
            raise TrackingError("MLflow did not take the last 3 entries")

    monkeypatch.setattr("s2l_ray.run.tracking.open_tracker", lambda *args: Full())
    with ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
    assert "note: MLflow did not take the last 3 entries" in (config.run_path / "driver.log").read_text()
    assert undone == ORDER


def test_a_password_in_tracking_uri_is_refused_before_anything_is_written(config: Config):
    uri = "postgresql+psycopg2://me:hidden@db/x"
    tracked = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})
    with ExitStack() as stack, pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI") as caught:
        set_up(tracked, SilentReporter(), stack)
    assert "hidden" not in str(caught.value) and not config.run_path.exists()


def test_the_embedded_models_are_tagged_by_name_and_data_of_the_hub_by_its_address(config: Config, tmp_path: Path):
    embedded = load_config("quickstart")
    assert tags_of(embedded, None)["learner"] == "embedded:large" and tags_of(config, None)["learner"] == "a"
    told: list[tuple[str, str]] = []

    class Recorder(NoTracker):
        def log_dataset(self, name: str, source: str, *more: object) -> None:
            told.append((name, source))

    problems = {
        use: SimpleNamespace(path=path, problems=[1], digest="0")
        for use, path in {"train": "hf://datasets/o/n@abc:train", "eval": "x.jsonl"}.items()
    }
    describe(Recorder(), config, SimpleNamespace(problems=problems), None)
    assert told == [("train", "hf://datasets/o/n@abc:train"), ("eval", str(Path("x.jsonl").resolve()))]
