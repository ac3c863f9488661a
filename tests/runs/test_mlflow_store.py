"""The store of a project as it is found: in any directory, new, shared, moved, locked, or not usable."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import TrackingError
from s2l_ray.redaction import redact
from s2l_ray.tracking import mlflow_store, mlflow_tracker
from s2l_ray.tracking.mlflow_store import find_experiment, how_to_open, locate, sqlite_file
from s2l_ray.tracking.tracker import Tracker, open_tracker
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S, until

AT_ONCE = """
import sys
from pathlib import Path
import mlflow
from s2l_ray.config import TrackingConfig
from s2l_ray.tracking.tracker import open_tracker
print("ready", flush=True)
sys.stdin.readline()
open_tracker(TrackingConfig(timeout_s=900), Path("outputs") / sys.argv[1], "run").finish()
"""


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(mlflow_tracker, "STOP_S", PATIENCE_S)  # what tests wait for comes, however slow the machine


@pytest.fixture(scope="module")
def started_at_once(tmp_path_factory) -> tuple[Path, list[tuple[int, str]]]:
    """A project of which three runs were started at the same time on a store that was not there, and how they ended."""
    project = tmp_path_factory.mktemp("project")
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, f"run-{number}"],
            cwd=project,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(3)
    ]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    said = [run.communicate(timeout=250)[0] for run in runs]
    return project, [(run.returncode, text) for run, text in zip(runs, said, strict=True)]


@pytest.fixture
def store(started_at_once, tmp_path: Path) -> Path:
    """The directory of a store of one's own."""
    (tmp_path / "store").mkdir()
    shutil.copy(started_at_once[0] / "outputs" / "mlflow.db", tmp_path / "store")
    return tmp_path / "store"


def opened(directory: Path, run_id: str | None = None, timeout_s: float = PATIENCE_S) -> Tracker:
    return open_tracker(TrackingConfig(timeout_s=timeout_s), directory / "run", "a-run", run_id)


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def execute(directory: Path, statement: str, *values: str) -> list[tuple]:
    with closing(sqlite3.connect(directory / "mlflow.db")) as connection, connection:
        return connection.execute(statement, values).fetchall()


# ---- many at once -------------------------------------------------------------------------------------------------


def test_three_runs_that_start_at_once_on_a_new_store(started_at_once):
    project, ended = started_at_once
    assert ended == [(0, "")] * 3
    assert execute(project / "outputs", "SELECT count(*), count(DISTINCT experiment_id) FROM runs") == [(3, 1)]


def test_who_waits_for_another_too_long_is_told(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(mlflow_store, "CREATION_S", 0.2)
    with (tmp_path / "mlflow.db.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrackingError, match=r"another process .* store .*mlflow\.db for 0\.2 s; see what it does"):
            opened(tmp_path)
    assert not (tmp_path / "mlflow.db").stat().st_size


def test_an_experiment_that_another_run_makes_in_between_is_taken(store: Path):
    uri = f"sqlite:///{store}/mlflow.db"

    class Slow(type(client(uri))):
        """Between its look and its own creation, the other run's came."""

        def create_experiment(self, *args, **kwargs):
            self.theirs = client(uri).create_experiment(*args, **kwargs)
            return super().create_experiment(*args, **kwargs)

    slow = Slow(tracking_uri=uri)
    assert find_experiment(slow, TrackingConfig(experiment="new"), None) == slow.theirs


# ---- any directory ------------------------------------------------------------------------------------------------

CHARACTERS = st.sampled_from("?#%&;=@:+ 2F~'\"\\") | st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
PATHS = st.lists(st.text(CHARACTERS, min_size=1).filter(lambda name: name not in (".", "..")), min_size=1, max_size=3)


@given(PATHS)
def test_any_path_comes_back_from_its_uri(names: list[str]):
    directory = Path("/", *names)
    uri, artifacts = locate(None, directory)
    assert sqlite_file(uri) == directory / "mlflow.db"
    assert redact(uri) == uri and artifacts.startswith("file:///") and artifacts.endswith("/mlartifacts")
    assert shlex.split(how_to_open(uri))[-2:] == ["--backend-store-uri", uri]


@pytest.mark.parametrize(
    "name",
    ["why?", "a#b", "100%", "a%20b", "ü ñ 模", "me:secret@host", "x&token=1", "?uri=true", 'it\'s "$HOME" \\n'],
)
def test_a_store_is_where_the_project_is_and_opens_as_printed(name: str, store: Path, tmp_path: Path):
    directory = tmp_path / "projects" / name / "outputs"
    directory.parent.mkdir(parents=True)
    store.rename(directory)
    tracker = opened(directory)
    tracker.log_text("hello", "config.yaml")
    tracker.finish()

    assert [path.name for path in (tmp_path / "projects").iterdir()] == [name]
    assert {path.name for path in directory.iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlartifacts", "run"}
    assert (directory / "mlartifacts" / tracker.run_id / "artifacts" / "config.yaml").read_text() == "hello"
    printed = f"printf %s {how_to_open(tracker.uri).rpartition('--backend-store-uri ')[2]}"
    seen = client(subprocess.run(["sh", "-c", printed], capture_output=True, text=True, check=True).stdout)
    assert seen.get_run(tracker.run_id).info.status == "FINISHED"
    assert [artifact.path for artifact in seen.list_artifacts(tracker.run_id)] == ["config.yaml"]


def test_a_moved_store_goes_on_in_its_new_place(store: Path, tmp_path: Path):
    """Its experiment and its runs have been written down with absolute paths of the old one."""
    before = opened(store)
    first = store / "mlartifacts" / before.run_id / "artifacts" / "first.txt"
    first.parent.mkdir(parents=True)  # as another process's log_text does; MLflow remembers its own places in memory
    first.write_text("1")
    before.finish("KILLED")
    moved = tmp_path / "elsewhere" / "out?puts"
    moved.parent.mkdir()
    store.rename(moved)

    after = opened(moved, before.run_id)
    assert after.run_id == before.run_id
    new = opened(moved)
    for tracker in (after, new):
        tracker.log_text("2", "second.txt")
        tracker.finish()
    assert not store.exists()
    artifacts = {
        tracker.run_id: sorted(path.name for path in (moved / "mlartifacts" / tracker.run_id / "artifacts").iterdir())
        for tracker in (after, new)
    }
    assert artifacts == {after.run_id: ["first.txt", "second.txt"], new.run_id: ["second.txt"]}
    assert [a.path for a in client(after.uri).list_artifacts(after.run_id)] == ["first.txt", "second.txt"]


def test_artifacts_that_were_put_elsewhere_on_purpose_stay_there(store: Path, tmp_path: Path):
    chosen = (tmp_path / "archive").as_uri()
    client(f"sqlite:///{store}/mlflow.db").create_experiment("archived", artifact_location=chosen)
    tracker = open_tracker(TrackingConfig(experiment="archived", timeout_s=PATIENCE_S), store / "run", "a-run")
    tracker.log_text("1", "first.txt")
    tracker.finish()
    assert (tmp_path / "archive" / tracker.run_id / "artifacts" / "first.txt").exists()


# ---- stores that cannot be used -----------------------------------------------------------------------------------


def test_a_locked_store_is_not_waited_for_and_gets_all_later(store: Path, capfd):
    tracker = opened(store, timeout_s=0.2)
    with closing(sqlite3.connect(store / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.set_tags({"first": "1"})
        until(lambda: str(tracker.problem).endswith("database is locked"))
        with pytest.raises(TrackingError, match="database is locked; another program is writing to it. End it, set"):
            opened(store, timeout_s=0.2)
        other.execute("ROLLBACK")
    tracker.set_tags({"second": "2"})
    until(lambda: tracker.problem is None)
    tags = client(tracker.uri).get_run(tracker.run_id).data.tags
    assert (tags["first"], tags["second"]) == ("1", "2")
    assert capfd.readouterr() == ("", "")


def test_tables_of_another_mlflow_are_named(store: Path):
    execute(store, "UPDATE alembic_version SET version_num = 'fffffffffff'")
    with pytest.raises(TrackingError, match=r"another version of MLflow \(schema fffffffffff, this one has \w+\)"):
        opened(store)


@pytest.mark.parametrize("uri", ["sqlite:", "sqlite:/x.db", "sqlite//x.db", "://", "nonsense+x://y"])
def test_what_is_no_uri_is_named(uri: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match="MLflow at .* cannot be used: .*tracking.uri"):
        open_tracker(TrackingConfig(uri=uri, timeout_s=1), tmp_path, "run")


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="File exists: .*/file'. See to the file, set tracking.uri to another"):
        opened(tmp_path / "file")
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(TrackingError, match="unable to open database file. See to the file, set tracking.uri"):
            opened(tmp_path / "closed")
