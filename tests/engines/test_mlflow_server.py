"""Runs on real MLflow servers, on sqlite and on PostgreSQL with users, read back by REST; and what servers do wrong."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config import TrackingConfig
from s2l_ray.errors import TrackingError
from s2l_ray.tracking import opening, writer
from s2l_ray.tracking.nested import end_nested
from s2l_ray.tracking.opening import find_run
from s2l_ray.tracking.sending import send_undelivered
from s2l_ray.tracking.tracker import Tracker, open_tracker
from s2l_ray.tracking.undelivered import Entry, Undelivered
from tests.support.mlflow_servers import ADMIN, Proxy, mlflow_server, postgres, why_no_postgres
from tests.support.patience import PATIENCE_S, until
from tests.support.step_records import step

NO_POSTGRES = why_no_postgres()


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[dict[str, str]]:
    """URLs: one on sqlite, and one on PostgreSQL that wants a name and a password. They start at the same time."""

    def sqlite() -> str:
        directory = tmp_path_factory.mktemp("sqlite")
        return stack.enter_context(mlflow_server(directory, f"sqlite:///{directory}/mlflow.db"))

    def with_users() -> str:
        database = stack.enter_context(postgres())
        return stack.enter_context(mlflow_server(tmp_path_factory.mktemp("postgres"), database, users=True))

    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        starting = {"sqlite": pool.submit(sqlite)}
        if NO_POSTGRES is None:
            starting["postgres"] = pool.submit(with_users)
        yield {name: started.result() for name, started in starting.items()}


@pytest.fixture
def proxy(servers) -> Iterator[Proxy]:
    proxy = Proxy(servers["sqlite"])
    yield proxy
    proxy.deaf = False
    proxy.stop()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "RUN_ID"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    monkeypatch.setattr(writer, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(writer, "LAST_RETRY_S", 0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])


def asked(server: str, path: str) -> dict[str, Any]:
    """What a server answers to a GET of its REST API."""
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/{path}")
    request.add_header("Authorization", "Basic " + base64.b64encode(":".join(ADMIN).encode()).decode())
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def run_of(server: str, tracker: Tracker) -> dict[str, Any]:
    return asked(server, f"runs/get?run_id={tracker.run_id}")["run"]


def steps_of(server: str, tracker: Tracker, metric: str = "reward") -> list[int]:
    found = asked(server, f"metrics/get-history?run_id={tracker.run_id}&metric_key={metric}")
    return [point.get("step", 0) for point in found.get("metrics", [])]


def opened(url: str, directory: Path, run_id: str | None = None, **keys: Any) -> Tracker:
    return open_tracker(TrackingConfig(uri=url, **{"timeout_s": PATIENCE_S} | keys), directory, "a-run", run_id)


@pytest.mark.parametrize(
    "store", ["sqlite", pytest.param("postgres", marks=pytest.mark.skipif(bool(NO_POSTGRES), reason=str(NO_POSTGRES)))]
)
def test_a_server_takes_a_whole_run(store: str, servers, tmp_path: Path):
    server = servers[store]
    tracker = opened(server, tmp_path / "run", experiment="whole")
    tracker.log_params({f"key{i}": i for i in range(150)})
    tracker.set_tags({"explorer": "small", "T_mix": "8"})
    tracker.log_dataset("train", "/data/train.jsonl", "0123", "training", {"num_rows": 7})
    tracker.log_text("hello", "config.yaml")
    for number in (1, 2):
        tracker.log_step(step(number))
    tracker.log_model("step-000002", 2, {"path": "/run/checkpoints/step-000002"})
    tracker.finish("FAILED")
    again = opened(server, tmp_path / "run", tracker.run_id, experiment="whole")
    again.log_params({"key0": "changed"})
    for number in (2, 3):
        again.log_step(step(number))
    again.log_model("step-000002", 2, {"path": "/run/checkpoints/step-000002"})
    again.finish()

    run = run_of(server, tracker)
    assert run["info"]["status"] == "FINISHED" and len(run["data"]["params"]) == 150
    assert steps_of(server, tracker) == [1, 2, 3]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert (tags["explorer"], tags["T_mix"], tags["resumed/key0"]) == ("small", "8", "changed")
    assert [given["dataset"]["digest"] for given in run["inputs"]["dataset_inputs"]] == ["0123"]
    assert len(run["outputs"]["model_outputs"]) == 1
    files = asked(server, f"artifacts/list?run_id={tracker.run_id}")["files"]
    assert [file["path"] for file in files] == ["config.yaml"]
    assert not list(tmp_path.glob("mlflow.db*"))


@pytest.mark.skipif(bool(NO_POSTGRES), reason=str(NO_POSTGRES))
def test_a_user_that_the_server_does_not_know_is_told_what_to_set(servers, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-secret")
    with pytest.raises(TrackingError, match="refuses this user .error code 401.. Set MLFLOW_TRACKING_USER") as told:
        opened(servers["postgres"], tmp_path / "run")
    assert "not-the-secret" not in str(told.value)
    host = servers["postgres"].removeprefix("http://")
    opened(f"http://{ADMIN[0]}:{ADMIN[1]}@{host}", tmp_path / "run").finish()  # what the URI says counts more


def test_a_token_is_sent(proxy: Proxy, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    opened(proxy.url, tmp_path / "run").finish()
    assert {authorization for _, _, authorization in proxy.seen} == {"Bearer a-token"}


def test_a_server_that_refuses_its_host_name_says_what_to_start_it_with(proxy: Proxy, tmp_path: Path):
    proxy.host = "mlflow.tracking.svc:5000"
    host = proxy.url.removeprefix("http://")
    with pytest.raises(TrackingError, match=f"refuses requests to the host {host}. .*--allowed-hosts {host}"):
        opened(proxy.url, tmp_path / "run")


def test_steps_wait_for_no_server_whatever_it_does(servers, proxy: Proxy, tmp_path: Path):
    # All steps together are one request: MLflow takes a thousand metrics in one.
    tracker = opened(proxy.url, tmp_path / "run")
    proxy.deaf = True
    for number in range(1, 7):
        tracker.log_step(step(number))  # returns although none of them is answered
    assert steps_of(servers["sqlite"], tracker) == []
    proxy.deaf, proxy.status = False, 503
    until(lambda: "503" in str(tracker.problem))
    for number in range(7, 10):
        tracker.log_step(step(number))
    proxy.stop()
    until(lambda: "refused" in str(tracker.problem))
    for number in range(10, 13):
        tracker.log_step(step(number))
    proxy.status, proxy.mute = None, True
    proxy.start()
    until(lambda: len(steps_of(servers["sqlite"], tracker)) == 12)  # they are there, but nobody has said so
    proxy.mute = False
    proxy.delay_s = 0.5
    tracker.finish()
    assert steps_of(servers["sqlite"], tracker) == list(range(1, 13))
    assert run_of(servers["sqlite"], tracker)["info"]["status"] == "FINISHED"
    assert (tmp_path / "run" / "undelivered.jsonl").read_text() == ""


@pytest.mark.parametrize("path", ["mlflow-artifacts/artifacts", "logged-models"])
def test_what_a_proxy_finds_too_large_holds_up_nothing(path: str, servers, proxy: Proxy, tmp_path: Path):
    tracker = opened(proxy.url, tmp_path)
    proxy.too_large = path
    tracker.log_text("x" * 1000, "large.txt") if "artifacts" in path else tracker.log_model("final", 1, {})
    tracker.log_step(step(1))
    with pytest.raises(TrackingError, match="will lack 1 (text|model) .*413"):
        tracker.finish()
    assert "will lack 1" in str(tracker.problem)
    assert steps_of(servers["sqlite"], tracker) == [1]


def test_a_run_that_is_stopped_is_killed_at_once_and_its_points_are_sent_later(servers, proxy: Proxy, tmp_path: Path):
    tracker = opened(proxy.url, tmp_path / "run")
    proxy.deaf = True
    tracker.log_step(step(1))
    until(lambda: tracker._writer._thread.is_alive() and tracker._writer.pending != [])
    time.sleep(0.2)  # the thread is in its request
    proxy.deaf = False
    proxy.delay_s = 1.0
    for number in range(2, 40):
        tracker.log_step(step(number))
        tracker.log_artifact(tmp_path / "run" / "undelivered.jsonl")
    with pytest.raises(TrackingError, match=r"not confirmed .*\d+ steps or .* of run .*: s2l track"):
        tracker.finish("KILLED")
    until(lambda: run_of(servers["sqlite"], tracker)["info"]["status"] == "KILLED")
    assert len(steps_of(servers["sqlite"], tracker)) < 39

    proxy.delay_s = 0.0
    config = TrackingConfig(uri=proxy.url, timeout_s=PATIENCE_S)
    assert "steps or evaluations" in send_undelivered(config, tmp_path / "run", str(tracker.run_id), "KILLED")
    assert send_undelivered(config, tmp_path / "run", str(tracker.run_id), "KILLED").startswith("MLflow at")
    assert steps_of(servers["sqlite"], tracker) == list(range(1, 40))


def test_a_run_whose_process_was_killed_is_sent_with_its_end(servers, proxy: Proxy, tmp_path: Path):
    tracker = opened(proxy.url, tmp_path / "run")
    proxy.stop()
    for number in (1, 2):
        tracker.log_step(step(number))
    tracker._writer.stop()  # as SIGKILL: no status, and no request that is still under way when the server is back
    until(lambda: not tracker._writer._thread.is_alive())
    config = TrackingConfig(uri=proxy.url, timeout_s=1)
    with pytest.raises(TrackingError, match=r"Connection refused|Remote end closed"):
        send_undelivered(config, tmp_path / "run", str(tracker.run_id), "KILLED")
    proxy.start()
    config = TrackingConfig(uri=proxy.url, timeout_s=PATIENCE_S)
    said = send_undelivered(config, tmp_path / "run", str(tracker.run_id), "KILLED")
    assert said.startswith("sent 2 steps or evaluations, 1 status to MLflow at http://127.0.0.1")
    assert run_of(servers["sqlite"], tracker)["info"]["status"] == "KILLED"
    assert steps_of(servers["sqlite"], tracker) == [1, 2]


def test_a_file_that_a_slow_server_takes_is_whole(proxy: Proxy, servers, tmp_path: Path):
    (tmp_path / "run" / "figures").mkdir(parents=True)
    content = bytes(range(256)) * 4096
    (tmp_path / "run" / "figures" / "a.png").write_bytes(content)
    tracker = opened(proxy.url, tmp_path / "run")
    proxy.delay_s = 0.2
    tracker.log_artifact(tmp_path / "run" / "figures" / "a.png", "figures")
    tracker.finish()
    url = f"{servers['sqlite']}/get-artifact?path=figures/a.png&run_uuid={tracker.run_id}"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        assert answer.read() == content


def test_a_process_that_is_told_to_end_while_it_opens_a_run_ends_it(servers, proxy: Proxy, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(opening, "ABANDONED_S", PATIENCE_S)
    monkeypatch.setattr(opening, "is_told", lambda: bool(proxy.seen))  # after the first of several requests
    proxy.delay_s = 0.2
    with pytest.raises(KeyboardInterrupt):
        opened(proxy.url, tmp_path / "run", experiment="told to end")
    found = asked(servers["sqlite"], "experiments/get-by-name?experiment_name=told%20to%20end")["experiment"]
    from mlflow import MlflowClient

    runs = MlflowClient(servers["sqlite"]).search_runs([found["experiment_id"]])
    assert [run.info.status for run in runs] == ["KILLED"]


def test_a_server_that_fails_in_the_middle_of_opening_a_run_is_said_and_the_run_stays_as_it_was(
    servers, proxy: Proxy, tmp_path: Path
):
    """A raw error of MLflow's would end a training run, and `s2l track`, with a traceback."""
    tracker = opened(proxy.url, tmp_path / "run")
    tracker.log_step(step(1))
    tracker.finish("KILLED")
    entry = Entry("metrics", str(tracker.run_id), {"step": 2, "time": 2, "metrics": {"alpha": 0.75}})
    Undelivered(tmp_path / "run" / "undelivered.jsonl", [entry]).close()
    proxy.too_large = "metrics/get-history"
    with pytest.raises(TrackingError, match=f"no answer from MLflow at {proxy.url} within 1 s"):
        opened(proxy.url, tmp_path / "run", tracker.run_id, timeout_s=1)
    assert run_of(servers["sqlite"], tracker)["info"]["status"] == "KILLED"
    with pytest.raises(TrackingError, match=f"no answer from MLflow at {proxy.url} within 1 s"):
        send_undelivered(TrackingConfig(uri=proxy.url, timeout_s=1), tmp_path / "run", str(tracker.run_id), "KILLED")
    proxy.too_large = ""
    again = opened(proxy.url, tmp_path / "run", tracker.run_id)
    again.finish()
    assert sorted(steps_of(servers["sqlite"], tracker, "alpha")) == [1, 2]


def test_looking_for_a_run_does_not_end_it_when_the_user_stops_that(servers, proxy: Proxy, tmp_path: Path, monkeypatch):
    tracker = opened(servers["sqlite"], tmp_path / "run")
    tracker.finish()
    monkeypatch.setattr(opening, "ABANDONED_S", PATIENCE_S)
    told = chain([False, False], repeat(True))  # while the first answer is waited for
    monkeypatch.setattr(opening, "is_told", lambda: next(told))
    proxy.delay_s = 0.5
    config = TrackingConfig(uri=proxy.url, timeout_s=PATIENCE_S)
    with pytest.raises(KeyboardInterrupt):
        find_run(config, tmp_path / "run", str(tracker.run_id), ["alpha"])
    assert run_of(servers["sqlite"], tracker)["info"]["status"] == "FINISHED"


def test_runs_of_trials_that_cannot_be_ended_are_said(proxy: Proxy, tmp_path: Path):
    study = opened(proxy.url, tmp_path / "study")
    study.finish()
    proxy.too_large = "runs/search"
    config = TrackingConfig(uri=proxy.url, timeout_s=PATIENCE_S)
    with pytest.raises(TrackingError, match=f"MLflow at {proxy.url} cannot be used: .*413"):
        end_nested(config, tmp_path / "study", str(study.run_id), {"trial": "KILLED"})
