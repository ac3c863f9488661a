from __future__ import annotations

import json
import math
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from s2l_ray.cli import main
from s2l_ray.config import TrackingConfig, load_config
from s2l_ray.errors import TrackingError
from s2l_ray.machine.disk import write_whole
from s2l_ray.redaction import redact
from s2l_ray.reporter import SilentReporter
from s2l_ray.results import EvaluationRecord, PipelineStats, SourceStats, StepRecord
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.tracking import RunTracking, where_it_was_tracked
from s2l_ray.step_log import StepLog
from s2l_ray.tracking import mlflow_store, mlflow_tracker, opening
from s2l_ray.tracking.measurements import track_measurements
from s2l_ray.tracking.metrics import metric_name, step_metrics
from s2l_ray.tracking.mlflow_store import how_to_open, why_not
from s2l_ray.tracking.node_meter import NodeMeter
from s2l_ray.tracking.opening import _within
from s2l_ray.tracking.tracker import Tracker, open_tracker
from s2l_ray.tracking.undelivered import Entry, Undelivered
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S


def stats(rollouts: int, reward: float, tokens: int) -> SourceStats:
    right = round(rollouts * reward)
    verdicts = {"right": right, "wrong": rollouts - right, "unparsable": 0, "timeout": 0}
    return SourceStats(rollouts, reward if rollouts else 0.0, 10 * rollouts, tokens, 1, verdicts)


def step(number: int, **changes) -> StepRecord:
    record = StepRecord(
        step=number,
        alpha=0.75,
        explorer_per_group=6,
        learner_per_group=2,
        reward=0.25,
        sources={"explorer": stats(24, 0.25, 300), "learner": stats(8, 0.25, 100)},
        zero_variance_groups=1,
        groups=4,
        prompts=["a", "b", "c", "d"],
        digest="0" * 16,
        weight_version=number - 1,
        trainer={"loss": 0.5, "kl": 0.001},
        seconds={"rollout": 1.5, "update": 0.4, "total": 2.0},
    )
    return replace(record, **changes)


def evaluation(at: int, model: str = "learner") -> EvaluationRecord:
    return EvaluationRecord(
        at, model, at, 50, 8, {1: 0.25, 8: 0.5}, {1: (0.2, 0.3), 8: (0.4, 0.6)}, 0.25, 9000, [2] * 50, 3.0
    )


@pytest.fixture(scope="module")
def first_use(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A directory with a store that another process made, and that process. Once for the file: it takes seconds."""
    directory = tmp_path_factory.mktemp("first use")
    code = """
from pathlib import Path
from s2l_ray.config import TrackingConfig
from s2l_ray.tracking.tracker import open_tracker
open_tracker(TrackingConfig(timeout_s=900), Path("outputs/run"), "run").finish()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    return directory, done


@pytest.fixture
def store(first_use) -> Path:
    return first_use[0] / "outputs"


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch):
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "RUN_ID"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    monkeypatch.setattr(mlflow_tracker, "STOP_S", PATIENCE_S)  # what tests wait for comes, however slow the machine


def opened(store: Path, run_id: str | None = None) -> Tracker:
    return open_tracker(TrackingConfig(timeout_s=PATIENCE_S), store / "run", "a-run", run_id)


def client(store: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")


def points(store: Path, tracker: Tracker, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client(store).get_metric_history(tracker.run_id, metric)]


def test_a_run_from_start_to_end(store, tmp_path):
    tracker = opened(store)
    assert tracker.uri == f"sqlite:///{store}/mlflow.db"
    assert client(store).get_run(tracker.run_id).info.status == "RUNNING"
    tracker.log_params({"rollout": {"group_size": 8}, "models": {"learner": "x" * 7000}, "k": [1, 8], "none": None})
    tracker.log_dataset("train", "/data/train.jsonl", "d" * 64, "training", {"num_rows": 1000})
    tracker.log_step(step(1))
    tracker.log_step(step(2, reward=0.5))
    tracker.log_evaluation(evaluation(0), "before")
    tracker.log_text("uri: https://me:secret@host/\n", "config.yaml")
    (tmp_path / "figure.png").write_bytes(b"png")
    tracker.log_artifact(tmp_path / "figure.png", "figures")
    tracker.finish()

    run = client(store).get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a-run")
    assert run.data.params["rollout.group_size"] == "8" and run.data.params["k"] == "[1, 8]"
    assert run.data.params["none"] == "null"
    assert len(run.data.params["models.learner"]) == 6000
    assert points(store, tracker, "reward") == [(1, 0.25), (2, 0.5)]
    assert points(store, tracker, "verdicts/explorer/wrong") == [(1, 18), (2, 18)]
    assert points(store, tracker, "tokens_per_second") == [(1, 200.0), (2, 200.0)]
    assert points(store, tracker, "eval/learner/pass_at_8") == [(0, 0.5)]
    assert points(store, tracker, "eval/learner/pass_at_8_low") == [(0, 0.4)]
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest, given.dataset.profile) == (
        "train",
        "d" * 36,
        '{"num_rows": 1000}',
    )
    assert json.loads(given.dataset.source)["uri"] == "/data/train.jsonl"
    assert [(t.key, t.value) for t in given.tags] == [("mlflow.data.context", "training")]
    artifacts = store / "mlartifacts" / tracker.run_id / "artifacts"
    assert (artifacts / "config.yaml").read_text() == "uri: https://***@host/\n"
    assert (artifacts / "figures" / "figure.png").read_bytes() == b"png"


def test_a_resumed_run_has_one_point_per_step(store):
    tracker = opened(store)
    for number in (1, 2, 3):
        tracker.log_step(step(number))
    tracker.log_evaluation(evaluation(0), "before")
    tracker.log_params({"steps": 10, "seed": 1})
    tracker.finish("KILLED")

    again = opened(store, tracker.run_id)
    assert again.run_id == tracker.run_id
    assert client(store).get_run(again.run_id).info.status == "RUNNING"
    again.log_params({"steps": 20, "seed": 1, "new": True})
    again.log_evaluation(evaluation(0), "before")
    again.log_evaluation(evaluation(0, "explorer"), "before")
    for number in (2, 3, 4):
        again.log_step(step(number))
        again.log_step(step(number))
    again.finish()

    assert points(store, again, "alpha") == [(1, 0.75), (2, 0.75), (3, 0.75), (4, 0.75)]
    assert points(store, again, "eval/learner/reward") == [(0, 0.25)]
    assert points(store, again, "eval/explorer/reward") == [(0, 0.25)]
    run = client(store).get_run(again.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"steps": "10", "seed": "1", "new": "true"}
    assert run.data.tags["resumed/steps"] == "20" and "resumed/seed" not in run.data.tags


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_ended_badly_says_so(store, status):
    tracker = opened(store)
    tracker.finish(status)
    assert client(store).get_run(tracker.run_id).info.status == status


def test_a_run_that_the_store_lost_starts_anew(store):
    first = opened(store)
    client(store).delete_run(first.run_id)
    assert opened(store, first.run_id).run_id != first.run_id
    assert opened(store, "0" * 32).run_id not in ("0" * 32, first.run_id)


def settled(tracker: Tracker) -> None:
    """Wait until everything is delivered."""
    assert tracker._writer.wait(time.monotonic() + PATIENCE_S), tracker.problem


def test_what_was_delivered_is_not_kept(store, tmp_path):
    tracker = opened(store)
    tracker.log_step(step(1))
    settled(tracker)
    assert (store / "run" / "undelivered.jsonl").read_text() == ""
    tracker.finish()


def test_a_file_that_is_gone_is_lost_and_counted_and_holds_up_nothing(store, tmp_path):
    tracker = opened(store)
    tracker.log_artifact(tmp_path / "gone.png")
    tracker.log_step(step(1))
    with pytest.raises(TrackingError, match=r"will lack 1 file \(.*gone.png is not there\)"):
        tracker.finish()
    assert points(store, tracker, "reward") == [(1, 0.25)]
    assert client(store).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_metric_that_is_refused_takes_no_other_with_it(store):
    tracker = opened(store)
    settled(tracker)
    with tracker._writer._changed:  # the three go in one request
        for number, name in ((1, "a"), (2, "b" * 300), (3, "a")):
            values = {"step": number, "time": 1, "metrics": {name: 0.5}}
            tracker._writer._undelivered.add(entry := Entry("metrics", tracker.run_id, values))
            tracker._writer._last += 1
            tracker._writer._queue.append((tracker._writer._last, entry))
    with pytest.raises(TrackingError, match="will lack 1 step or evaluation"):
        tracker.finish()
    assert points(store, tracker, "a") == [(1, 0.5), (3, 0.5)]


def test_what_was_delivered_before_the_process_was_killed_is_not_sent_again(store):
    """The process ended between a delivery and its note in the file, and repeats a step at another time."""
    tracker = opened(store)
    tracker.log_step(step(1))
    tracker.log_step(step(2))
    settled(tracker)
    tracker._writer.stop()
    left = [Entry("metrics", tracker.run_id, {"step": n, "time": n, "metrics": {"alpha": 0.75}}) for n in (2, 3)]
    other = Entry("metrics", "f" * 32, {"step": 9, "time": 9, "metrics": {"alpha": 0.75}})
    stale = Entry("status", tracker.run_id, {"status": "KILLED", "time": 5})
    Undelivered(store / "run" / "undelivered.jsonl", [*left, other, stale])

    again = opened(store, tracker.run_id)
    for number in (2, 3, 4):
        again.log_step(step(number))
    settled(again)
    assert client(store).get_run(again.run_id).info.status == "RUNNING"
    again.finish()
    assert sorted(points(store, again, "alpha")) == [(1, 0.75), (2, 0.75), (3, 0.75), (4, 0.75)]


def rollout(index: int, response: str | None = None) -> dict[str, object]:
    return {
        "prompt_id": f"p{index}", "source": "learner", "model": "m", "weight_version": 3, "index": index,
        "reward": float(index), "verdict": "right", "detail": "", "tokens": 2,
        "response": response or f"größe {index}",
    }  # fmt: skip


def responses(store: Path, run_id: str | None) -> list[str]:
    from mlflow.tracing.client import TracingClient

    experiment = client(store).get_run(run_id).info.experiment_id
    found = TracingClient(f"sqlite:///{store}/mlflow.db").search_traces(
        locations=[experiment], filter_string=f"request_metadata.`mlflow.sourceRun` = '{run_id}'"
    )
    return sorted(trace.data.spans[0].outputs for trace in found)


DAMAGES = {
    "a line that was cut": (json.dumps(rollout(1))[:32].encode(), "this is no rollout (Unterminated string"),
    "no JSON": (b"nonsense", "this is no rollout (Expecting value"),
    "a list": (b"[1]", "this is no rollout (a value in it is of another type"),
    "a missing key": (b'{"prompt_id": "p1"}', "this is no rollout (it has no 'source')"),
    "other bytes": (bytes(range(14, 200)), "this is no rollout (Expecting value"),
    "a null": (json.dumps(rollout(1) | {"response": None}).encode(), "this is no rollout ('response' is None)"),
    "a text for a number": (json.dumps(rollout(1) | {"reward": "1"}).encode(), "('reward' is '1')"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_rollouts_that_are_damaged_are_named_once_and_hold_up_nothing(store, tmp_path, capsys, damage, said):
    run = tmp_path / "run"
    tracker = open_tracker(TrackingConfig(uri=f"sqlite:///{store}/mlflow.db", timeout_s=PATIENCE_S), run, "a-run")
    whole, damaged = (run / "rollouts" / f"step-00000{number}.jsonl" for number in (1, 2))
    whole.parent.mkdir()
    whole.write_text(json.dumps(rollout(0)) + "\n")
    damaged.write_bytes(json.dumps(rollout(0)).encode() + b"\n" + damage + b"\n")
    tracker.log_traces(damaged, 2, 2)
    tracker.log_metrics({"later": 1.0}, 2)
    settled(tracker)
    assert f"will lack 1 set of traces ({damaged}, line 2: " in str(tracker.problem) and said in str(tracker.problem)
    with pytest.raises(TrackingError, match="will lack 1 set of traces"):
        tracker.finish()
    assert points(store, tracker, "later") == [(2, 1.0)]

    run_id = str(tracker.run_id)
    (run / "config.yaml").write_text(
        f"models: {{learner: a, explorer: b}}\ndata: {{train: x}}\ntracking: {{uri: {tracker.uri}}}\n"
    )
    (run / "run.json").write_text(json.dumps({"mlflow_run_id": run_id}))
    kept = [
        Entry("traces", run_id, {"path": f"rollouts/{file.name}", "step": number, "count": 2, "time": 1})
        for number, file in ((2, damaged), (1, whole))
    ]
    Undelivered(run / "undelivered.jsonl", [*kept, Entry("metrics", run_id, metric_at(3))])
    assert main(["track", str(run)]) == 1
    error = capsys.readouterr().err
    assert f"will lack 1 set of traces ({damaged}, line 2: " in error and said in error
    assert responses(store, run_id) == ["größe 0"] and (3, 1.0) in points(store, tracker, "later")
    assert main(["track", str(run)]) == 0 and "has everything of run" in capsys.readouterr().out


def metric_at(step: int) -> dict[str, object]:
    return {"step": step, "time": 1, "metrics": {"later": 1.0}}


def test_rollouts_of_any_text_are_traces(store):
    """Unicode has ends of lines of its own, and a lone surrogate is nothing that a store can take."""
    tracker = opened(store)
    file = store / "run" / "rollouts" / "step-000006.jsonl"
    texts = ["a\u2028b\x85c\u2029d", "a\ud800b"]
    write_whole(file, "".join(json.dumps(rollout(n, t), ensure_ascii=False) + "\n" for n, t in enumerate(texts)))
    tracker.log_traces(file, 6, 2)
    tracker.finish()
    assert responses(store, tracker.run_id) == ["a?b", texts[0]]


def test_what_no_store_can_encode_is_lost_alone(store):
    tracker = opened(store)
    tracker.set_tags({"place": "a\udcffb"})
    tracker.log_text("a\udcffb", "notes.txt")
    tracker.log_metrics({"later": 1.0}, 10**30)
    tracker.log_metrics({"later": 1.0}, 2)
    with pytest.raises(TrackingError, match="will lack 1 set of tags, 1 text, 1 step or evaluation .*surrogates not"):
        tracker.finish()
    assert points(store, tracker, "later") == [(2, 1.0)]


def test_a_damaged_line_of_what_was_kept_is_said_and_the_rest_is_sent(store, tmp_path, capsys):
    tracker = opened(store)
    tracker.finish()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"models: {{learner: a, explorer: b}}\ndata: {{train: x}}\ntracking: {{uri: {tracker.uri}}}\n"
    )
    (run / "run.json").write_text(json.dumps({"mlflow_run_id": tracker.run_id}))
    kept, config = run / "undelivered.jsonl", TrackingConfig(uri=tracker.uri, timeout_s=PATIENCE_S)
    for step_number, first in ((1, '{"kind": "tags"}\n'), (2, "nonsense\n")):
        Undelivered(kept, [Entry("metrics", str(tracker.run_id), metric_at(step_number))])
        kept.write_text(first + kept.read_text())
        if step_number == 1:
            assert main(["track", str(run)]) == 1
            assert f"{kept}: line 1 cannot be read" in capsys.readouterr().err
            assert main(["track", str(run)]) == 0
        else:
            again = open_tracker(config, run, "a-run", tracker.run_id)
            assert "line 1 cannot be read" in str(again.problem)
            with pytest.raises(TrackingError, match="line 1 cannot be read, so that MLflow may lack"):
                again.finish()
    assert sorted(points(store, tracker, "later")) == [(1, 1.0), (2, 1.0)]


def test_rollouts_are_traces_once_and_are_found_by_run_and_tag(store):
    tracker = opened(store)
    file = store / "run" / "rollouts" / "step-000004.jsonl"
    file.parent.mkdir(exist_ok=True)
    rows = [rollout(0), rollout(1) | {"question": "how large?", "answer": "5"}, rollout(2)]  # the first as it was once
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path, number in ((file, 4), (file, 4), (file.with_name("step-000005.jsonl"), 5)):
        tracker.log_traces(path, number, 2)
    with pytest.raises(TrackingError, match="will lack 1 set of traces"):
        tracker.finish()

    from mlflow.tracing.client import TracingClient

    found = TracingClient(tracker.uri).search_traces(
        locations=[client(store).get_run(tracker.run_id).info.experiment_id],
        filter_string=f"request_metadata.`mlflow.sourceRun` = '{tracker.run_id}' AND tags.step = '4'",
    )
    assert sorted((trace.info.tags["reward"], trace.data.spans[0].outputs) for trace in found) == [
        ("0.0", "größe 0"),
        ("1.0", "größe 1"),
    ]
    given = {"prompt_id": "p1", "question": "how large?", "answer": "5"}
    assert sorted((trace.data.spans[0].inputs for trace in found), key=len) == [{"prompt_id": "p0"}, given]


def test_a_node_meter_gives_means_since_it_was_read(monkeypatch):
    meter = NodeMeter(sample_s=PATIENCE_S)
    first = meter.read()
    assert 0 < first["system_memory_usage_percentage"] < 100 and "cpu_utilization_percentage" in first
    for monitor, memory in ((meter._monitors[0], 10.0), (meter._monitors[0], 20.0)):
        monitor._metrics["system_memory_usage_percentage"].append(memory)
    now = meter._monitors[0]._metrics["system_memory_usage_percentage"]
    assert now == [10.0, 20.0]
    assert meter.read()["system_memory_usage_percentage"] == pytest.approx((30.0 + now[-1]) / 3, abs=1)


def test_models_are_there_once_and_go_with_their_checkpoints(store):
    tracker = opened(store)
    for name, at in (("step-000002", 2), ("step-000004", 4), ("step-000004", 4)):
        tracker.log_model(name, at, {"path": f"/run/checkpoints/{name}"})
    tracker.forget_model("step-000002")
    tracker.forget_model("step-000001")
    tracker.finish()
    run = client(store).get_run(tracker.run_id)
    (model,) = client(store).search_logged_models([run.info.experiment_id], f"source_run_id = '{tracker.run_id}'")
    assert (model.name, model.status, model.params) == (
        "step-000004",
        "READY",
        {"path": "/run/checkpoints/step-000004"},
    )
    assert [output.step for output in run.outputs.model_outputs if output.model_id == model.model_id] == [4]


def test_a_server_that_does_not_listen_is_named_and_not_waited_for(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    config = TrackingConfig(uri=f"http://me:secret@127.0.0.1:{port}", timeout_s=1)
    before = dict(os.environ)
    with pytest.raises(TrackingError) as caught:
        open_tracker(config, tmp_path, "run")
    message = str(caught.value)
    assert f"http://***@127.0.0.1:{port} within 1 s ([Errno 111] Connection refused). Start" in message
    assert "tracking.uri" in message and "tracking.enabled=false" in message and "secret" not in message
    assert dict(os.environ) == before | {"MLFLOW_DISABLE_TELEMETRY": "true"}


def test_a_server_that_never_answers_is_not_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = TrackingConfig(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=1)
        with pytest.raises(TrackingError, match="no answer from MLflow at .* within 1 s .Read timed out"):
            open_tracker(config, tmp_path, "run")


def test_a_database_that_does_not_listen_is_not_waited_for(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    config = TrackingConfig(uri=f"postgresql://me:secret@127.0.0.1:{port}/mlflow", timeout_s=1)
    with pytest.raises(TrackingError, match=r"postgresql://\*\*\*@127.*refused"):
        open_tracker(config, tmp_path, "run")


def test_an_address_of_no_kind_of_store_is_an_error(tmp_path):
    with pytest.raises(
        TrackingError, match=r"htp://127.0.0.1:1 cannot be used: its address must begin with http, .*mysql\. Correct"
    ):
        open_tracker(TrackingConfig(uri="htp://127.0.0.1:1"), tmp_path, "run")


def test_a_password_with_a_slash_is_not_shown(tmp_path):
    with pytest.raises(TrackingError, match=r"store postgresql://\*\*\*@db/x has no number as its port") as caught:
        open_tracker(TrackingConfig(uri="postgresql://me:hidden/too@db/x"), tmp_path / "run", "mine")
    assert "hidden" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    (tmp_path / "notes.db").write_text("not a database, but long enough to be read as one" * 20)
    with pytest.raises(TrackingError, match="notes.db.*not a database.*tracking.uri"):
        open_tracker(TrackingConfig(uri=f"sqlite:///{tmp_path}/notes.db"), tmp_path, "run")


def test_the_environment_names_the_store_unless_the_configuration_does(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://127.0.0.1:1/from_environment")
    with pytest.raises(TrackingError, match="from_environment"):
        open_tracker(TrackingConfig(timeout_s=1), tmp_path, "run")
    with pytest.raises(TrackingError, match="from_config"):
        open_tracker(TrackingConfig(uri="postgresql://127.0.0.1:1/from_config", timeout_s=1), tmp_path, "run")


def test_the_environment_names_the_experiment_unless_the_configuration_does(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the environment")
    for config, name in ((TrackingConfig(), "of the environment"), (TrackingConfig(experiment="a key"), "a key")):
        tracker = open_tracker(config, store / "run", "a-run")
        tracker.finish()
        run = client(store).get_run(tracker.run_id)
        assert client(store).get_experiment(run.info.experiment_id).name == name


def test_the_environment_names_the_run(store, tmp_path, monkeypatch):
    given = client(store).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    tracker = opened(store)
    tracker.log_params({"run_dir": str(store / "run")})
    tracker.log_step(step(1))
    tracker.finish()
    assert tracker.run_id == given and points(store, tracker, "reward") == [(1, 0.25)]
    opened(store).finish("KILLED")  # the same directory
    with pytest.raises(TrackingError, match=f"MLFLOW_RUN_ID: .* of the training run in {store}/run; name another, or"):
        open_tracker(TrackingConfig(uri=tracker.uri), tmp_path / "another", "a-run")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(TrackingError, match="MLFLOW_RUN_ID: MLflow at .* has no run 0000.*; name one, or unset it"):
        opened(store)


def test_a_run_is_nested_under_the_parent_that_is_named(store, monkeypatch):
    study = open_tracker(TrackingConfig(timeout_s=PATIENCE_S, experiment="studies"), store / "study", "study")
    nested = TrackingConfig(timeout_s=PATIENCE_S, parent_run=study.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", str(study.run_id))  # is the study's: not to be used for its trials
    tracker = open_tracker(nested, store / "trial", "study_00000")
    tracker.finish()
    run = client(store).get_run(tracker.run_id)
    assert tracker.run_id != study.run_id and run.data.tags["mlflow.parentRunId"] == study.run_id
    assert run.info.experiment_id == client(store).get_run(study.run_id).info.experiment_id
    again = open_tracker(nested, store / "trial", "study_00000", tracker.run_id)
    again.finish()
    study.finish()
    assert again.run_id == tracker.run_id

    elsewhere = nested.model_copy(update={"experiment": "elsewhere"})
    named = open_tracker(elsewhere, store / "named", "a-run")
    named.finish()
    mlflow = client(store)
    assert mlflow.get_run(named.run_id).info.experiment_id == mlflow.get_experiment_by_name("elsewhere").experiment_id


def test_a_run_that_was_there_before_its_parent_is_nested_when_it_resumes(store):
    tracker = opened(store)
    tracker.finish()
    study = opened(store)
    study.finish()
    config = TrackingConfig(timeout_s=PATIENCE_S, parent_run=study.run_id)
    open_tracker(config, store / "run", "a-run", tracker.run_id).finish()
    assert client(store).get_run(tracker.run_id).data.tags["mlflow.parentRunId"] == study.run_id


@pytest.mark.parametrize("deleted", [True, False])
def test_a_parent_that_is_not_there_is_refused(store, deleted: bool):
    parent = "0" * 32
    if deleted:
        tracker = opened(store)
        tracker.finish()
        client(store).delete_run(parent := str(tracker.run_id))
    with pytest.raises(TrackingError, match=rf"tracking.parent_run: MLflow at .* has no run {parent}; give the id"):
        open_tracker(TrackingConfig(timeout_s=PATIENCE_S, parent_run=parent), store / "trial", "trial")


@pytest.mark.parametrize(
    ("how", "error", "status"),
    [
        ("pruned", None, "FINISHED"),
        ("stopped", None, "KILLED"),
        ("stopped", KeyboardInterrupt(), "KILLED"),
        ("failed", None, "FAILED"),  # Tune ends a trial in a call that does not see the error of the last one
        ("failed", KeyboardInterrupt(), "KILLED"),
        ("finished", None, "FINISHED"),
    ],
)
def test_how_a_run_ended_is_its_status(store, how: str, error: BaseException | None, status: str):
    tracking = RunTracking(opened(store), SilentReporter())
    if how == "pruned":
        tracking.pruned()
    tracking.failed, tracking.finished = how == "failed", how == "finished"
    tracking.__exit__(type(error) if error else None, error, None)
    run = client(store).get_run(tracking.tracker.run_id)
    tag = "pruned" if how == "pruned" else None
    assert (run.info.status, run.data.tags.get("s2l.trial_status")) == (status, tag)


def test_the_command_sends_what_a_killed_run_left(store, monkeypatch, capsys):
    tracker = opened(store)
    settled(tracker)
    tracker._writer.stop()
    run = store / "killed"
    run.mkdir()
    (run / "config.yaml").write_text("models: {learner: a, explorer: b}\ndata: {train: x}\nrun_dir: /moved\n")
    (run / "run.json").write_text(json.dumps({"mlflow_run_id": tracker.run_id, "mlflow_uri": tracker.uri}))
    Undelivered(run / "undelivered.jsonl", [Entry("tags", tracker.run_id, {"late": "1"})])
    assert main(["track", str(run)]) == 0
    assert capsys.readouterr().out.startswith("sent 1 set of tags, 1 status to MLflow at sqlite:///")
    found = client(store).get_run(tracker.run_id)
    assert (found.info.status, found.data.tags["late"]) == ("KILLED", "1")
    assert main(["track", str(run)]) == 0 and "has everything of run" in capsys.readouterr().out
    (run / "run.json").write_text(json.dumps({"mlflow_run_id": "0" * 32}))
    assert main(["track", str(run)]) == 1
    assert "has no run 00000000000000000000000000000000; set MLFLOW_TRACKING_URI" in capsys.readouterr().err
    (run / "run.json").unlink()
    assert main(["track", str(run)]) == 0 and "in which no step was done" in capsys.readouterr().out
    assert main(["track", str(store)]) == 1 and "is not a run directory" in capsys.readouterr().err


def test_a_nested_run_that_began_without_its_server_is_logged_later(store, monkeypatch, capsys):
    study = opened(store)
    study.finish()
    run = store / "untracked"
    run.mkdir()
    keys = f"name: s_00001\nmodels: {{learner: a, explorer: b}}\ndata: {{train: x}}\nrun_dir: {run}\n"
    (run / "config.yaml").write_text(keys + f"tracking: {{parent_run: {study.run_id}}}\n")
    log = StepLog(run / "steps.jsonl")
    log.append(step(1))
    log.append(step(2))
    assert main(["track", str(run)]) == 0
    assert capsys.readouterr().out.startswith("logged 2 steps to MLflow at sqlite:///")
    run_id = json.loads((run / "run.json").read_text())["mlflow_run_id"]
    found = client(store).get_run(run_id)
    assert (found.info.run_name, found.info.status) == ("s_00001", "KILLED")
    assert found.data.tags["mlflow.parentRunId"] == study.run_id
    assert [m.step for m in client(store).get_metric_history(run_id, "reward")] == [1, 2]
    # It was resumed while the server was away, and got to its end.
    log.append(step(3))
    evaluations = {"before": evaluation(0).to_json(), "explorer": None, "after": evaluation(3).to_json(), "during": []}
    (run / "summary.json").write_text(json.dumps({"evaluation": evaluations}))
    assert main(["track", str(run)]) == 0 and "logged 1 step to" in capsys.readouterr().out
    assert client(store).get_run(run_id).info.status == "FINISHED"
    assert [m.step for m in client(store).get_metric_history(run_id, "eval/learner/pass_at_1")] == [0, 3]
    assert main(["track", str(run)]) == 0 and "has everything of run" in capsys.readouterr().out


def test_a_run_that_was_not_to_be_tracked_is_logged_from_its_files(store, capsys, monkeypatch):
    monkeypatch.setattr("s2l_ray.run.tracking.describe", lambda *_: None)  # of problems and models, which are not there
    run = store / "off"
    run.mkdir()
    keys = "name: off\nmodels: {learner: a, explorer: b}\ndata: {train: x}\ntracking: {enabled: false}\n"
    (run / "config.yaml").write_text(keys)
    log = StepLog(run / "steps.jsonl")
    log.append(step(1))
    assert main(["track", str(run)]) == 0 and "logged 1 step to MLflow at sqlite:///" in capsys.readouterr().out
    log.append(step(2))
    directory = RunDirectory.acquire(settings := load_config(run / "config.yaml", [f"run_dir={run}"]))
    with RunTracking.open(settings, directory, None, None, SilentReporter()):  # it was resumed, and is not tracked
        pass
    directory.close()
    evaluations = {"before": evaluation(0).to_json(), "explorer": None, "after": evaluation(2).to_json(), "during": []}
    (run / "summary.json").write_text(json.dumps({"evaluation": evaluations}))
    assert main(["track", str(run)]) == 0 and "logged 1 step to" in capsys.readouterr().out
    run_id = json.loads((run / "run.json").read_text())["mlflow_run_id"]
    found = client(store).get_run(run_id)
    assert (found.info.run_name, found.info.status) == ("off", "FINISHED")
    assert sorted(m.step for m in client(store).get_metric_history(run_id, "reward")) == [1, 2]
    assert main(["track", str(run)]) == 0 and "has everything of run" in capsys.readouterr().out


def test_the_answer_says_which_store_was_asked_and_none_is_made(store, tmp_path, monkeypatch, capsys):
    tracker = opened(store)
    tracker.finish()
    uri, run = f"sqlite:///{store}/mlflow.db", tmp_path / "elsewhere" / "run"
    run.mkdir(parents=True)
    keys = "models: {learner: a, explorer: b}\ndata: {train: x}\n"
    (run / "run.json").write_text(json.dumps({"mlflow_run_id": tracker.run_id, "mlflow_uri": uri}))

    def told(config: str) -> tuple[int, str]:
        (run / "config.yaml").write_text(config)
        returned, said = main(["track", str(run)]), capsys.readouterr()
        return returned, said.out + said.err

    returned, said = told(keys)
    assert returned == 1 and f"there is no MLflow store {run.parent}/mlflow.db; set MLFLOW_TRACKING_URI" in said
    assert f"When it was last tracked, its store was {uri}" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mistyped/mlflow.db")
    returned, said = told(keys)
    assert returned == 1 and f"there is no MLflow store {tmp_path}/mistyped/mlflow.db" in said and uri in said
    returned, said = told(keys + f"tracking: {{uri: {uri}}}\n")
    assert returned == 0 and f"MLflow at {uri} has everything" in said
    assert "MLFLOW_TRACKING_URI was not used: the configuration in that directory has tracking.uri" in said
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert [path.name for path in run.parent.iterdir()] == ["run"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert told(keys) == (0, f"MLflow at {uri} has everything of run {tracker.run_id}\n")


@pytest.mark.parametrize(
    ("ends", "status", "tag"),
    [(["pruned"], "FINISHED", "pruned"), (["failed"], "FAILED", None), (["failed", "stopped"], "KILLED", None)],
)
def test_a_trial_that_was_not_tracked_is_logged_with_what_it_was_pruned_by(
    store, tmp_path, monkeypatch, capsys, ends: list[str], status: str, tag: str | None
):
    study = opened(store)
    study.finish()
    run = tmp_path / "trial"
    run.mkdir()
    keys = f"name: s_00001\nmodels: {{learner: a, explorer: b}}\ndata: {{train: x}}\nrun_dir: {run}\n"
    (run / "config.yaml").write_text(keys + f"tracking: {{parent_run: {study.run_id}, timeout_s: 1}}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    for how in ends:  # one start each
        directory = RunDirectory.acquire(settings := load_config(run / "config.yaml"))
        with RunTracking.open(settings, directory, None, None, SilentReporter()) as tracking:
            assert tracking.tracker.run_id is None
            if how == "pruned":
                tracking.pruned()
            tracking.failed = how == "failed"
        directory.close()
    for number in (1, 2, 3):
        StepLog(run / "steps.jsonl").append(step(number))
    taken = {"evaluations": {"before": evaluation(0).to_json()}, "during": [evaluation(2).to_json()]}
    for number, state in ((1, {"evaluations": {}, "during": []}), (2, taken)):
        (run / "checkpoints" / f"step-00000{number}").mkdir(parents=True)
        (run / "checkpoints" / f"step-00000{number}" / "state.json").write_text(json.dumps(state))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(study.uri))
    (run / "config.yaml").write_text(keys + f"tracking: {{parent_run: {study.run_id}, timeout_s: {PATIENCE_S}}}\n")
    assert main(["track", str(run)]) == 0, capsys.readouterr().err
    run_id = json.loads((run / "run.json").read_text())["mlflow_run_id"]
    found = client(store).get_run(run_id)
    assert (found.info.status, found.data.tags.get("s2l.trial_status")) == (status, tag)
    assert [m.step for m in client(store).get_metric_history(run_id, "eval/learner/pass_at_1")] == [0, 2]


def test_what_mlflow_lacks_of_measurements_is_sent_by_the_command_that_made_them(store, monkeypatch):
    """`s2l track` takes no directory of an evaluation."""

    def refuse(*args: object) -> None:
        raise ConnectionRefusedError("refused")

    def log(tracker: Tracker) -> None:
        away.setattr("s2l_ray.tracking.deliveries.probe", refuse)
        tracker.log_metrics({"pass_at_1": 0.5}, 1)

    known: list[str] = []
    short, config = TrackingConfig(timeout_s=2), TrackingConfig(timeout_s=PATIENCE_S)
    with monkeypatch.context() as away:
        said = str(track_measurements(short, store / "measured", None, known.append, log))
    assert f"kept in {store}/measured/undelivered.jsonl: the same command sends them. Results are not" in said
    assert track_measurements(config, store / "measured", known[0], known.append, lambda tracker: None) is None
    assert [m.value for m in client(store).get_metric_history(known[0], "pass_at_1")] == [0.5]


def test_a_server_that_the_run_had_from_its_environment_is_remembered(monkeypatch):
    known = "http://mlflow:5000"
    assert where_it_was_tracked(TrackingConfig(), known).uri == known
    assert where_it_was_tracked(TrackingConfig(uri="http://key:1"), known).uri == "http://key:1"
    for unusable in ("sqlite:////moved/mlflow.db", "http://***@mlflow:5000", None):
        assert where_it_was_tracked(TrackingConfig(), unusable).uri is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:1")
    assert where_it_was_tracked(TrackingConfig(), known).uri is None


def test_a_store_that_hangs_is_given_up_and_what_it_brings_late_is_ended(monkeypatch):
    late, ended, hold = [], threading.Event(), threading.Event()

    def work() -> str:
        hold.wait(PATIENCE_S)
        return "a run"

    monkeypatch.setattr(opening, "ABANDONED_S", 0.05)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        _within(0.05, work, lambda run: (late.append(run), ended.set()))
    hold.set()
    assert ended.wait(PATIENCE_S) and late == ["a run"]
    assert _within(PATIENCE_S, lambda: 5, late.append) == 5
    with pytest.raises(ZeroDivisionError):
        _within(PATIENCE_S, lambda: 1 // 0, late.append)
    assert late == ["a run"]


def test_tracking_off_does_nothing_and_imports_nothing(tmp_path):
    code = """
import sys
from pathlib import Path
from s2l_ray.config import TrackingConfig
from s2l_ray.tracking.tracker import open_tracker
tracker = open_tracker(TrackingConfig(enabled=False), Path(sys.argv[1]), "run")
tracker.log_params({"a": 1})
tracker.log_step(None)
tracker.log_evaluation(None, "before")
tracker.log_dataset("a", "a", "d", "training", {})
tracker.set_tags({"a": "b"})
tracker.log_text("", "a")
tracker.log_artifact(Path("a"))
tracker.log_model("a", 1, {})
tracker.forget_model("a")
tracker.finish("FAILED")
assert tracker.run_id is tracker.uri is tracker.problem is None
assert "mlflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=PATIENCE_S, cwd=ROOT)
    assert list(tmp_path.iterdir()) == []


def test_the_first_use_of_a_database_says_nothing_and_litters_nothing(first_use):
    directory, done = first_use
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in directory.iterdir()] == ["outputs"]


def test_artifacts_go_beside_a_sqlite_file():
    assert mlflow_store.locate("sqlite:////data/x/my.db", Path("/unused")) == (
        "sqlite:////data/x/my.db",
        "file:///data/x/mlartifacts",
    )
    assert mlflow_store.locate(None, Path("/data/out")) == (
        "sqlite:////data/out/mlflow.db",
        "file:///data/out/mlartifacts",
    )
    assert mlflow_store.locate("http://127.0.0.1:5000", Path("/unused")) == ("http://127.0.0.1:5000", None)


def test_step_metrics_by_hand():
    sources = {"explorer": stats(0, 0.0, 0), "learner": stats(32, 0.5, 640)}
    learner_only = step(9, sources=sources, trainer={"kl": math.nan})
    metrics = step_metrics(learner_only)
    assert metrics["tokens"] == 640 and metrics["tokens/learner"] == 640 and metrics["tokens_per_second"] == 320.0
    assert metrics["reward/learner"] == 0.5 and metrics["verdicts/learner/right"] == 16
    assert "reward/explorer" not in metrics and metrics["rollouts/explorer"] == 0
    assert "trainer/kl" not in metrics


def test_a_steps_seconds_by_phase_and_by_part():
    parts = {"explore": 1.0, "verify": 0.5, "forward_backward": 0.4, "other": 0.1}
    metrics = step_metrics(step(3, parts=parts, busy={"explorer": 0.75}, pipeline=PipelineStats(prefetch_mb=1.5)))
    seconds = {"rollout": 1.5, "update": 0.4, "total": 2.0}
    assert {k: v for k, v in metrics.items() if k.startswith("seconds/")} == {
        f"seconds/{name}": value for name, value in (parts | seconds).items()
    }
    assert metrics["busy/explorer"] == 0.75 and metrics["pipeline/prefetch_mb"] == 1.5


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("mean@1", "mean_at_1"),
        ("timing(s)/gen", "timing_s_/gen"),
        ("a//b", "a/b"),
        ("../a/./b", "a/b"),
        ("seconds/update", "seconds/update"),
        ("größe", "gr__e"),
    ],
)
def test_metric_names_are_made_valid(name, valid):
    from mlflow.utils.validation import _validate_metric_name

    assert metric_name(name) == valid
    _validate_metric_name(valid)


@pytest.mark.parametrize(
    ("caused_by", "said"),
    [
        ("ProtocolError('Connection aborted.', RemoteDisconnected('Remote end closed it'))", "Remote end closed it"),
        ("NewConnectionError(\"Connection(host='h'): Failed: [Errno 111] Refused\")", "[Errno 111] Refused"),
        ("ResponseError('too many 503 error responses')", "too many 503 error responses"),
        (
            "NameResolutionError(\"Connection(host='h'): Failed to resolve 'h' ([Errno -2] Not known)\")",
            "Failed to resolve 'h' ([Errno -2] Not known)",
        ),
    ],
)
def test_why_a_request_failed_is_a_few_words(caused_by: str, said: str):
    text = "API request to http://h/x failed with exception HTTPConnectionPool(host='h', port=1): Max retries exceeded"
    assert why_not(Exception(f"{text} with url: /x (Caused by {caused_by})")) == said


def test_why_a_store_failed_is_one_line():
    assert why_not(OSError("No space: left\nmore")) == "No space: left"


def test_passwords_are_hidden():
    assert redact("postgresql://me:s3:cr@t@db:5432/x") == "postgresql://***@db:5432/x"
    assert redact("mysql://db/x?password=abc&ssl=1") == "mysql://db/x?password=***&ssl=1"
    for harmless in ("https://host/path@2", "https://host:5000/path@2", "hf://datasets/a/b@main"):
        assert redact(harmless) == harmless
    assert redact("postgresql://me:s3/cr@t@db/x and http://a:b@c") == "postgresql://***@db/x and http://***@c"
    assert redact("https://host/x?access_token=abc&secret_key=d&sig=e&q=1") == (
        "https://host/x?access_token=***&secret_key=***&sig=***&q=1"
    )
    assert redact("sqlite:////home/me/mlflow.db") == "sqlite:////home/me/mlflow.db"


def test_how_to_open():
    command = how_to_open("sqlite:////a b/mlflow.db")
    assert command.endswith("mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'")
    assert Path(shlex.split(command)[0]).is_file()  # it works without an active environment
    assert how_to_open("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
