"""Checkpoints that a thread writes while the run goes on, over actors that do nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.errors import ActorLostError, DiskError
from s2l_ray.machine.checksums import sum_of
from s2l_ray.reporter import SilentReporter
from s2l_ray.run import saving, training_run
from s2l_ray.run.manifest import read_manifest
from s2l_ray.run.tracking import RunTracking
from s2l_ray.run.training_run import TrainingRun
from s2l_ray.step_log import StepLog
from tests.support.notes import Notes
from tests.support.patience import PATIENCE_S
from tests.support.training_runs import Graph, set_up_over

STEPS = 9
"""Of a run; it ends with figures, which take long to draw, so most tests stop before."""


class Gate:
    """Holds what is about to be written until it is opened."""

    def __init__(self, graph: Graph) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        graph.writes = self.pass_through

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)


def full() -> None:
    raise DiskError("/somewhere cannot be written: No space left on device")


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    graph = Graph()
    monkeypatch.setattr(training_run, "set_up", set_up_over(graph))
    return graph


def configured(tmp_path: Path, **changed: Any) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: mine\nmodels: {learner: a, explorer: b, dtype: float32}\ndata: {train: x.jsonl}\n"
        f"schedule: {{steps: {STEPS}, mix_steps: 2}}\ncheckpoint: {{every: 2, keep: 2}}\n"
    )
    return load_config(path, {"run_dir": str(tmp_path / "run"), **changed})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configured(tmp_path)


def checkpoints(config: Config) -> list[str]:
    return sorted(path.parent.name for path in config.run_path.glob("checkpoints/*/state.json"))


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def run(config: Config, graph: Graph) -> Iterator[TrainingRun]:
    with TrainingRun(config, Notes()) as run:
        yield run


def test_training_goes_on_while_a_checkpoint_is_written(run: TrainingRun, graph: Graph, config: Config):
    gate = Gate(graph)
    for _ in range(3):
        run.step()
    assert run.steps_done == 3 and checkpoints(config) == []
    assert list((config.run_path / "checkpoints").glob("*")) == [config.run_path / "checkpoints" / "step-000002"]
    gate.opened.set()
    eventually(lambda: checkpoints(config) == ["step-000002"])
    kept = config.run_path / "checkpoints" / "step-000002"
    assert {path.name for path in kept.iterdir()} == {"trainer", "steps.jsonl", "manifest.json", "state.json"}
    assert (kept / "trainer" / "version").read_text() == "2"  # the trainer's state is that of step 2, not of now
    assert StepLog(kept / "steps.jsonl").read() == run.records[:2]
    assert json.loads((kept / "state.json").read_text())["step"] == 2
    names = {"trainer/version", "trainer/weights", "steps.jsonl", "state.json"}
    assert read_manifest(kept) == {name: sum_of(kept / name) for name in names}


def test_what_is_written_is_the_same_as_without_a_thread(graph: Graph, tmp_path: Path):
    found = []
    for name, asynchronous in (("with", True), ("without", False)):
        changed = {"run_dir": str(tmp_path / name), "checkpoint.asynchronous": asynchronous}
        config = configured(tmp_path, **changed)
        with TrainingRun(config, SilentReporter()) as run:
            for _ in range(STEPS - 1):
                run.step()
        files = {
            str(path.relative_to(config.run_path)): path.read_bytes()
            for path in config.run_path.glob("checkpoints/*/**/*")
            if path.is_file() and path.name not in ("steps.jsonl", "manifest.json")  # which have times
        }
        found.append(files)
        assert checkpoints(config) == ["step-000006", "step-000008"]
        graph.weights = "initial"
    assert found[0] == found[1] and len(found[0]) == 2 * 3


def test_where_memory_is_short_training_waits_for_the_disk_and_that_is_said_once(config: Config, graph: Graph):
    reporter = Notes()
    graph.trainer.lacks_memory = lambda: "10.0.0.3 has 1.0 GB of memory left, and the trainer's state 2.0"
    graph.trainer.begin_save = None
    with TrainingRun(config, reporter) as run:
        for _ in range(4):
            run.step()
    assert checkpoints(config) == ["step-000002", "step-000004"]
    assert len(reporter.notes) == 1 and reporter.notes[0].startswith("training waits for checkpoints to be written")
    assert reporter.notes[0].endswith("10.0.0.3 has 1.0 GB of memory left, and the trainer's state 2.0")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_mlflow_hears_of_checkpoints_that_are_there(
    asynchronous: bool, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    heard: list[list[int]] = []
    monkeypatch.setattr(RunTracking, "models", lambda self, there: heard.append([step for step, _ in there]))
    with TrainingRun(configured(tmp_path, **{"checkpoint.asynchronous": asynchronous}), SilentReporter()) as run:
        for _ in range(STEPS - 1):
            run.step()
        run.state.look_after_checkpoints(wait=True)
    assert heard == [[2], [2, 4], [4, 6], [6, 8]]


def test_the_next_checkpoint_waits_for_the_one_before(config: Config, graph: Graph):
    events: list[str] = []
    begin = graph.trainer.begin_save

    def begin_save(directory: str) -> Any:
        events.append(f"taken {graph.version}")
        return begin(directory)

    def slowly() -> None:
        time.sleep(0.1)
        events.append("written")

    graph.trainer.begin_save, graph.writes = begin_save, slowly
    with TrainingRun(config, SilentReporter()) as run:
        for _ in range(6):
            run.step()
    assert events == ["taken 2", "written", "taken 4", "written", "taken 6", "written"]
    assert checkpoints(config) == ["step-000004", "step-000006"]  # the end of the run waited for the last one


def test_a_full_disk_ends_the_run_at_the_next_step_and_the_last_good_checkpoint_stays(
    run: TrainingRun, graph: Graph, config: Config
):
    for _ in range(3):
        run.step()
    run.state.look_after_checkpoints(wait=True)
    gate = Gate(graph)
    graph.writes = lambda: (gate.pass_through(), full())
    run.step()
    thread = run.state.saver._thread
    gate.opened.set()
    thread.join(PATIENCE_S)
    with pytest.raises(DiskError, match="No space left on device"):
        run.step()
    assert run.steps_done == 4 and checkpoints(config) == ["step-000002"]
    assert [path.name for path in (config.run_path / "checkpoints").iterdir()] == ["step-000002"]


def test_a_checkpoint_that_failed_in_the_last_step_is_an_error_of_the_run(config: Config, graph: Graph):
    with TrainingRun(config, SilentReporter()) as run:
        for _ in range(STEPS - 1):
            run.step()
        graph.writes = full
        with pytest.raises(DiskError, match="No space left"):
            run.step()
    assert not (config.run_path / "summary.json").exists()
    assert checkpoints(config) == ["step-000006", "step-000008"]


def test_a_checkpoint_that_is_lost_with_an_actor_is_a_note_and_the_next_one_is_written(config: Config, graph: Graph):
    def gone() -> None:
        raise ActorLostError("saving a checkpoint failed: an actor is gone")

    graph.writes = gone
    reporter = Notes()
    with TrainingRun(config, reporter) as run:
        for step in range(4):
            if step == 3:
                graph.writes = lambda: None
            run.step()
    assert len(reporter.notes) == 1
    assert reporter.notes[0].endswith("the one before it stays: saving a checkpoint failed: an actor is gone")
    assert checkpoints(config) == ["step-000004"]


def test_the_checkpoint_of_the_last_step_is_written_again_if_it_is_lost_with_an_actor(config: Config, graph: Graph):
    attempts: list[int] = []

    def gone_once() -> None:
        if graph.version == STEPS:
            attempts.append(graph.version)
            if len(attempts) == 1:
                raise ActorLostError("saving a checkpoint failed: an actor is gone")

    graph.writes = gone_once
    with TrainingRun(config, SilentReporter()) as run:
        while not run.done:
            run.step()
        assert run.summary["weight_versions"] == list(range(STEPS))
    assert len(attempts) == 2 and checkpoints(config) == ["step-000008", "step-000009"]


def test_while_a_run_waits_for_a_checkpoint_it_sees_to_the_trainer(
    run: TrainingRun, graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(saving, "POLL_S", 0.02)
    gate = Gate(graph)
    graph.trainer.tend = gate.opened.set  # a rank that hangs is found, and ended
    run.step()
    assert run.state.checkpoint().name == "step-000001"


def test_a_checkpoint_that_is_lost_again_and_again_is_an_error(config: Config, graph: Graph):
    def gone() -> None:
        raise ActorLostError("saving a checkpoint failed: an actor is gone")

    with TrainingRun(config, SilentReporter()) as run:
        run.step()
        graph.writes = gone
        with pytest.raises(ActorLostError, match="the checkpoint of step 1 was lost with an actor 3 times"):
            run.state.checkpoint()


def test_older_checkpoints_go_only_once_the_trainer_goes_on_from_the_newest(config: Config, graph: Graph):
    """What it loads when its ranks are lost must be there."""
    bases: list[tuple[str, int, list[str]]] = []
    graph.trainer.saved = lambda directory, step: bases.append((directory, step, checkpoints(config)))
    with TrainingRun(config, SilentReporter()) as run:
        for _ in range(STEPS - 1):
            run.step()
        run.state.look_after_checkpoints(wait=True)
    assert [step for _, step, _ in bases] == [2, 4, 6, 8]
    assert bases[2][0] == str(config.run_path / "checkpoints" / "step-000006" / "trainer")
    assert bases[2][2] == ["step-000002", "step-000004", "step-000006"]  # keep is 2
    assert checkpoints(config) == ["step-000006", "step-000008"]


def test_what_tune_asks_for_is_whole_when_it_is_named(run: TrainingRun, graph: Graph, config: Config):
    gate = Gate(graph)
    run.step()
    run.step()
    threading.Timer(0.1, gate.opened.set).start()
    assert run.state.checkpoint().name == "step-000002" and checkpoints(config) == ["step-000002"]
    run.step()
    assert run.state.checkpoint().name == "step-000003" and checkpoints(config) == ["step-000002", "step-000003"]


def test_a_step_that_is_not_recorded_has_no_checkpoint(
    run: TrainingRun, graph: Graph, config: Config, monkeypatch: pytest.MonkeyPatch
):
    run.step()
    monkeypatch.setattr(StepLog, "append", lambda *args: full())
    with pytest.raises(DiskError):
        run.step()
    run.state.saver.end(None, None, None)
    assert checkpoints(config) == [] and list((config.run_path / "checkpoints").iterdir()) == []


def test_after_a_signal_a_slow_disk_is_not_waited_for_long(
    config: Config, graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(saving, "STOPPED_S", 0.05)
    gate, reporter = Gate(graph), Notes()
    with pytest.raises(KeyboardInterrupt), TrainingRun(config, reporter) as run:
        run.step()
        run.step()
        thread = run.state.saver._thread
        raise KeyboardInterrupt
    assert reporter.notes == ["the last checkpoint was not whole 0.05 s after the signal; the one before it stays"]
    gate.opened.set()
    thread.join(PATIENCE_S)
    assert checkpoints(config) == []  # the directory may be another process's by then
    with TrainingRun(config, reporter) as run:
        assert run.steps_done == 0


def test_an_error_of_the_run_is_not_hidden_by_one_of_its_checkpoint(config: Config, graph: Graph):
    gate, reporter = Gate(graph), Notes()
    with pytest.raises(ActorLostError), TrainingRun(config, reporter) as run:
        run.step()
        run.step()
        graph.writes = full
        gate.opened.set()
        raise ActorLostError("an engine is gone")
    assert checkpoints(config) == ["step-000002"] and reporter.notes == []
    with pytest.raises(ActorLostError), TrainingRun(config, reporter) as run:
        run.step()
        run.step()
        raise ActorLostError("an engine is gone")
    assert checkpoints(config) == ["step-000002"]
    assert reporter.notes[-1].startswith(
        "the last checkpoint could not be written, the one before it stays: /somewhere"
    )
