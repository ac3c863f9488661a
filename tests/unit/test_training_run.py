"""A training run over actors that do nothing: what it asks them for, in which order, and what it leaves on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.batch import StepBatch
from s2l_ray.config import Config, HealthConfig, load_config
from s2l_ray.errors import ActorLostError, ConfigError, DataError, DiskError, HealthError, S2LError
from s2l_ray.reporter import SilentReporter
from s2l_ray.rollouts.stragglers import read_stragglers
from s2l_ray.run import training_run
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.training_run import TrainingRun
from s2l_ray.step_log import StepLog
from s2l_ray.tracking.tracker import NoTracker
from tests.support.training_runs import Graph, set_up_over

STEPS = 3


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: mine\nmodels: {learner: a, explorer: b, dtype: float32}\ndata: {train: x.jsonl}\n"
        f"schedule: {{steps: {STEPS}, mix_steps: 2}}\ncheckpoint: {{every: 2, keep: 1, asynchronous: false}}\n"
    )
    return load_config(path, {"run_dir": str(tmp_path / "run")})


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    graph = Graph()
    monkeypatch.setattr(training_run, "set_up", set_up_over(graph))
    return graph


@pytest.fixture
def run(config: Config, graph: Graph) -> Iterator[TrainingRun]:
    with TrainingRun(config, SilentReporter()) as run:
        yield run


def checkpoints(config: Config) -> list[str]:
    return sorted(path.parent.name for path in config.run_path.glob("checkpoints/*/state.json"))


def test_a_step_is_algorithm_1_and_sampling_goes_on_before_the_step_is_saved(run: TrainingRun, graph: Graph):
    records = [run.step() for _ in range(STEPS)]
    first = ["weight_sync 0", "collect 1", "update 1", "weight_sync 1", "begin_collect 2"]
    # Nothing is sampled ahead of a phase that changes engines.
    second = ["collect 2", "update 2", "weight_sync 2", "save"]
    third = ["apply_phase 3", "collect 3", "update 3", "weight_sync 3", "save", "export"]
    assert graph.calls == [*first, *second, *third]
    assert [(r.step, r.weight_version) for r in records] == [(1, 0), (2, 1), (3, 2)]
    assert [list(r.seconds) for r in records] == [
        ["rollout", "update", "weight_sync", "total"],
        ["rollout", "update", "weight_sync", "checkpoint", "total"],
        ["hand_over", "rollout", "update", "weight_sync", "checkpoint", "total"],
    ]
    assert records[0].pipeline.to_json() == {
        "prefetch_mb": 3.0,
        "banked_rollouts": 0,
        "stragglers": 0,
        "stale_dropped": 0,
        "restarts": 0,
        "redone": 0,
        "weight_sync_mb": 2.0,
        "weight_sync_s": 0.5,
        "weight_sync_gb_per_s": 10.0,
        "weight_sync_drain_s": 0.0,
        "weight_sync_stall_s": 0.3,
    }


def test_a_run_is_done_over_and_says_so(run: TrainingRun, config: Config):
    with pytest.raises(S2LError, match="there is no summary yet: 0 of 3 steps are done"):
        _ = run.summary
    while not run.done:
        run.step()
    assert run.summary["weight_versions"] == [0, 1, 2]
    assert json.loads((config.run_path / "summary.json").read_text()) == run.summary
    with pytest.raises(S2LError, match="the run is over: all 3 steps are done"):
        run.step()


def test_a_checkpoint_has_the_record_of_its_step_and_only_the_newest_stays(run: TrainingRun, config: Config):
    for expected in ([], ["step-000002"], ["step-000003"]):
        run.step()
        assert checkpoints(config) == expected
    kept = config.run_path / "checkpoints" / "step-000003"
    assert StepLog(kept / "steps.jsonl").read() == run.records
    assert "checkpoint" in run.records[-1].seconds


@pytest.mark.parametrize("where", ["save", "record"])
def test_a_step_that_cannot_be_saved_or_recorded_has_no_checkpoint(
    where: str, run: TrainingRun, graph: Graph, config: Config, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: object) -> None:
        raise DiskError("No space left on device")

    run.step()
    if where == "save":
        graph.trainer.save = full
    else:
        monkeypatch.setattr(StepLog, "append", full)
    with pytest.raises(DiskError):
        run.step()
    assert checkpoints(config) == [] and run.steps_done == 1


def test_a_run_resumes_after_its_last_checkpoint(config: Config, graph: Graph):
    with TrainingRun(config, SilentReporter()) as run:
        run.step()
        run.step()
        before = run.records
    graph.calls.clear()
    with TrainingRun(config, SilentReporter()) as run:
        assert graph.calls == ["load", "restore_schedule 2", "apply_phase 3", "weight_sync 2"]
        assert run.steps_done == 2 and run.records == before
        run.step()
    assert [record.step for record in StepLog(config.run_path / "steps.jsonl").read()] == [1, 2, 3]
    assert read_stragglers(config.run_path / "stragglers.jsonl") == {2: ["late"]}


def test_a_run_that_was_stopped_before_its_summary_has_only_its_end_to_do(config: Config, graph: Graph):
    with TrainingRun(config, SilentReporter()) as run:
        while not run.done:
            run.step()
    (config.run_path / "summary.json").unlink()
    graph.calls.clear()
    with TrainingRun(config, SilentReporter()) as run:
        assert run.done
        assert run.step().step == STEPS
        assert run.summary["weight_versions"] == [0, 1, 2]
    assert graph.calls == ["load", "restore_schedule 3", "apply_phase 4", "weight_sync 3", "export", "close"]


def test_save_and_restore_go_through_a_directory_of_the_callers(run: TrainingRun, graph: Graph, tmp_path: Path):
    run.step()
    run.state.save(tmp_path / "saved")
    run.step()
    graph.calls.clear()
    run.state.restore(tmp_path / "saved")
    assert graph.calls == ["load", "restore_schedule 1", "apply_phase 2", "weight_sync 1"]
    assert run.steps_done == 1 and run.step().step == 2
    with pytest.raises(ConfigError, match="is not a whole checkpoint"):
        run.state.restore(tmp_path / "nothing")
    with pytest.raises(S2LError, match=r"nothing to evaluate on; set data\.eval"):
        run.evaluate()


def test_a_run_that_cannot_resume_holds_nothing(config: Config, graph: Graph):
    with TrainingRun(config, SilentReporter()) as run:
        run.step()
        run.step()
    (config.run_path / "checkpoints" / "step-000002" / "trainer" / "version").unlink()
    with pytest.raises(DataError, match="no checkpoint of .*/run is whole. .*/trainer/version is not there; remove"):
        TrainingRun(config, SilentReporter())
    RunDirectory.acquire(config).close()


def test_the_record_is_of_what_was_trained_on(run: TrainingRun, graph: Graph, config: Config, monkeypatch):
    """Rollouts that are gone with the scheduler are sampled again, and need not be the same."""
    again = [replace(row, digest="11", reward=1.0) for row in graph.collect(1).summaries]

    def update(batch: StepBatch) -> tuple[StepBatch, dict[str, float], list]:
        return replace(batch, summaries=again, stragglers=["another"]), {"loss": 0.5}, []

    plain = run.step()
    monkeypatch.setattr(graph, "update", update)
    record = run.step()
    assert (plain.reward, record.reward) == (0.5, 1.0)
    assert record.digest != plain.digest
    assert read_stragglers(config.run_path / "stragglers.jsonl") == {2: ["another"]}


def test_numbers_that_go_wrong_end_a_run_that_keeps_its_last_good_checkpoint(
    config: Config, graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    def update(batch: object) -> tuple[object, dict[str, float], list]:
        went_well = batch.split.step < 3
        return batch, {"updates": float(went_well), "skipped_updates": float(not went_well)}, []

    class Told(SilentReporter):
        notes: list[str] = []  # noqa: RUF012 - of this test alone

        def note(self, text: str) -> None:
            self.notes.append(text)

    monkeypatch.setattr(graph, "update", update)
    changed = {
        "schedule": config.schedule.model_copy(update={"steps": 9}),
        "health": HealthConfig(skipped_updates_steps=3),
    }
    config = config.model_copy(update=changed)
    with TrainingRun(config, Told()) as run:
        with pytest.raises(HealthError, match="step 5: no weight changed: .* as for 3 steps, since step 3"):
            while True:
                run.step()
        assert run.steps_done == 5
    assert [note[:24] for note in Told.notes] == ["step 3: no weight change"]
    # keep is 1: without the trouble, step 4 would have replaced step 2. Step 5 is saved since the run ends there.
    assert checkpoints(config) == ["step-000002", "step-000004", "step-000005"]
    monkeypatch.setattr(graph, "update", lambda batch: (batch, {"updates": 1.0, "skipped_updates": 0.0}, []))
    with TrainingRun(config, SilentReporter()) as run:  # the same command goes on, with what was wrong put right
        assert run.steps_done == 5 and run.step().health["skipped_updates"] == 0
        assert checkpoints(config) == ["step-000006"]


# ---- actors that outlive a run ------------------------------------------------------------------------------------


def test_a_run_hands_its_actors_over_whole_and_the_next_one_ends_them(config: Config, graph: Graph, tmp_path: Path):
    first = TrainingRun(config, SilentReporter())
    first.step()
    actors = first.hand_over()
    assert graph.calls[-1] == "rest"
    RunDirectory.acquire(config).close()  # nobody holds it
    graph.calls.clear()
    other = config.model_copy(update={"run_dir": str(tmp_path / "other")})
    with TrainingRun(other, SilentReporter(), actors) as second, first:  # the first has nothing left to end
        second.step()
    assert graph.calls == ["weight_sync 0", "collect 1", "update 1", "weight_sync 1", "begin_collect 2", "close"]


def test_actors_of_a_run_that_failed_or_of_which_one_is_gone_are_ended_with_it(
    config: Config, graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    def gone() -> None:
        raise ActorLostError("the scheduler is gone")

    for name in ("collect", "rest"):
        run = TrainingRun(config, SilentReporter())
        with monkeypatch.context() as broken:
            broken.setattr(graph, name, lambda *args: gone())
            if name == "collect":
                with pytest.raises(ActorLostError):
                    run.step()
            actors = run.hand_over()
        assert graph.calls[-1] == "close" and actors._graph is None
        RunDirectory.acquire(config).close()


def test_a_run_that_cannot_be_ended_properly_leaves_no_actors(
    config: Config, graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    def full(self: object, status: str = "FINISHED", brief: bool = False) -> None:
        raise DiskError("No space left on device")

    run = TrainingRun(config, SilentReporter())
    monkeypatch.setattr(NoTracker, "finish", full)
    with pytest.raises(DiskError):
        run.hand_over()
    assert graph.calls[-1] == "close"
    RunDirectory.acquire(config).close()
