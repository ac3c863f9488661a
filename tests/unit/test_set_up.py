"""What a run undoes, and in which order: with everything that takes a process replaced by a record of calls."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.errors import PlacementError, TrackingError
from s2l_ray.reporter import SilentReporter
from s2l_ray.run import set_up as setting_up
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.inputs import Inputs
from s2l_ray.run.set_up import set_up
from s2l_ray.run.tracking import RunTracking
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
        def finish(self, status: str = "FINISHED") -> None:
            done.append(f"MLflow {status}")

    def close(run: RunDirectory) -> None:
        done.append("lock")
        run._lock.close()

    inputs = Inputs({}, [], [], CONTENTS)
    plan = SimpleNamespace(layout=object(), problems=())
    monkeypatch.setattr(setting_up, "load_inputs", lambda config: inputs)
    monkeypatch.setattr(setting_up, "connect", lambda cluster, note: True)
    monkeypatch.setattr(setting_up, "end_private_ray", lambda: done.append("Ray"))
    monkeypatch.setattr(setting_up, "live_inventory", lambda: SimpleNamespace(specs=()))
    monkeypatch.setattr(setting_up, "prepare_bank", lambda config, train: None)
    monkeypatch.setattr(setting_up, "known_stragglers", lambda config, train, own: {})
    monkeypatch.setattr(setting_up, "make_plan", lambda config, inventory, dtype: plan)
    monkeypatch.setattr(setting_up, "plan_json", lambda plan: "{}")
    monkeypatch.setattr(setting_up, "ActorGraph", Graph)
    monkeypatch.setattr("s2l_ray.run.tracking.open_tracker", lambda *args: Recorded())
    monkeypatch.setattr(RunDirectory, "close", close)
    return done


ORDER = ["actors", "lock", "Ray"]


def test_mlflow_ends_first_then_actors_then_the_lock_then_a_private_ray(config: Config, undone: list[str]):
    with ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
        assert undone == []
    assert undone == ["MLflow KILLED", *ORDER]


def test_a_ray_that_others_started_is_left_alone(config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(setting_up, "connect", lambda cluster, note: False)
    with ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
    assert undone == ["MLflow KILLED", "actors", "lock"]


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
    monkeypatch.setattr(setting_up, "make_plan", lambda config, inventory, dtype: plan)
    with pytest.raises(PlacementError, match="no placement: too large"), ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
    assert undone == ["MLflow FAILED", "lock", "Ray"]
    RunDirectory.acquire(config).close()  # nobody holds it


def test_actors_are_stopped_and_the_rest_undone_where_one_fails(
    config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch
):
    def fail(graph: object) -> None:
        undone.append("actors")
        raise RuntimeError("an actor hangs")

    monkeypatch.setattr(setting_up.ActorGraph, "close", fail)
    with pytest.raises(RuntimeError, match="an actor hangs"), ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
    assert undone == ["MLflow KILLED", *ORDER]


def test_actors_that_were_still_starting_are_stopped_after_mlflow(
    config: Config, undone: list[str], monkeypatch: pytest.MonkeyPatch
):
    def start(graph: object, first_step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(setting_up.ActorGraph, "start", start)
    with pytest.raises(KeyboardInterrupt), ExitStack() as stack:
        set_up(config, SilentReporter(), stack)
    assert undone == ["MLflow KILLED", *ORDER]


def test_what_mlflow_did_not_take_is_a_note_and_hides_no_error():
    notes: list[str] = []

    class Noting(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    class Full(NoTracker):
        def finish(self, status: str = "FINISHED") -> None:
            raise TrackingError("MLflow did not take the last 3 entries")

    with pytest.raises(ValueError, match="a bug"), RunTracking(Full(), Noting(), None):
        raise ValueError("a bug")
    assert notes == ["MLflow did not take the last 3 entries"]
