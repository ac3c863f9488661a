"""Trials that failed and are tried again by the next start: Tune's real loop, with trials that only count."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.tune.schedulers import FIFOScheduler

from actors.connection import connect
from s2l_ray.config import load_config
from s2l_ray.evaluation.summary import build_summary
from s2l_ray.results import EvaluationRecord
from s2l_ray.tuning.observer import StudyObserver
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.place import FREE_OF_CONFIG, StudyPlace
from s2l_ray.tuning.searching import Drawn, StudyTrials
from s2l_ray.tuning.tune_loop import Loop
from tests.support.counting_trials import STEPS, Counter
from tests.support.patience import PATIENCE_S
from tests.support.step_records import step
from tests.support.studies import study


@pytest.fixture
def started_ray() -> Iterator[None]:
    assert connect(None)
    yield
    ray.shutdown()


def start(folder: Path, *, max_failures: int, retries_failed: bool = True) -> tuple[list[TrialOutcome], list[str]]:
    """One start of the study: its outcomes, and the events of the second trial."""
    place = StudyPlace.of(str(folder / "outputs"), "counted")
    place.directory.mkdir(parents=True, exist_ok=True)
    about = study(place.directory, trials=2, keys=("number",), name="counted", steps=STEPS)
    events: list[str] = []
    observer = StudyObserver(about, lambda event, trial: events.append(event) if trial.name[-1] == "2" else None)

    def configured(number: int, values: Any) -> dict[str, Any]:
        return {"number": number, "folder": str(folder), "schedule": {"steps": STEPS}} | dict.fromkeys(FREE_OF_CONFIG)

    Loop(
        name="counted",
        place=place,
        search=StudyTrials("counted", 2, Drawn([{}, {}]), configured, at_once=1),
        scheduler=FIFOScheduler(),
        callbacks=[observer],
        check=lambda: None,
        max_failures=max_failures,
        at_once=1,
        exploits=False,
        retries_failed=retries_failed,
        trainable=Counter,
    ).run()
    return observer.outcomes, events


def steps(folder: Path) -> list[str]:
    return (folder / "steps").read_text().split("\n")[:-1]


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_trial_that_failed_goes_on_in_the_next_start_and_may_fail_as_often_again(
    started_ray: None, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    (one, two), events = start(tmp_path, max_failures=1)
    assert (one.status, one.step, two.status, two.step, two.failures) == ("finished", 3, "failed", 1, 2)
    assert two.error is not None and "no memory" in two.error and events.count("failed") == 1
    done = ["1: 1", "1: 2", "1: 3", "2: 1"]
    assert steps(tmp_path) == done

    (one, two), events = start(tmp_path, max_failures=1, retries_failed=False)
    assert (two.status, events) == ("failed", ["restored"]) and steps(tmp_path) == done

    (one, two), events = start(tmp_path, max_failures=1)
    assert (one.status, two.status, two.failures) == ("finished", "failed", 2)
    assert events.count("failed") == 1 and events[-1] == "ended"  # tried twice more, and given up again
    assert steps(tmp_path) == done

    broken.unlink()
    (one, two), events = start(tmp_path, max_failures=0)
    assert (one.status, two.status, two.step, two.error) == ("finished", "finished", 3, None)
    assert steps(tmp_path) == [*done, "2: 2", "2: 3"]  # from its last checkpoint on
    assert json.dumps([trial.to_json() for trial in (one, two)])


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.parametrize("whole", [True, False])
def test_a_trial_whose_run_is_finished_is_over_though_tune_was_stopped_before_it_heard_so(
    started_ray: None, tmp_path: Path, whole: bool
) -> None:
    (tmp_path / "stops").write_text(str(os.getpid()))
    after = EvaluationRecord(STEPS, "learner", STEPS, 50, 8, {1: 0.25}, {1: (0.2, 0.3)}, 0.25, 9000, [2] * 50, 3.0)
    summary = build_summary(
        config=load_config("quickstart"),
        steps=[step(number, seconds={"total": 2.0}) for number in range(1, STEPS + 1)],
        after=after,
        mlflow_run_id="f" * 32,
        machine={},
    )
    text = json.dumps(summary)
    (tmp_path / "summary.json").write_text(text if whole else text[:-9])
    (one, two), events = start(tmp_path, max_failures=0)
    assert (one.status, two.status, two.step, events[-1]) == ("finished", "stopped", 2, "ended")
    done = ["1: 1", "1: 2", "1: 3", "2: 1", "2: 2", "2: 3"]
    assert steps(tmp_path) == done

    (tmp_path / "stops").unlink()
    (one, two), events = start(tmp_path, max_failures=0)
    assert (one.status, two.status, two.step) == ("finished", "finished", STEPS)
    if whole:
        assert steps(tmp_path) == done and events == ["restored", "ended"]
        assert (two.metric, two.metric_step, two.interval) == (0.25, STEPS, (0.2, 0.3))
        assert (two.mlflow_run_id, two.directory) == ("f" * 32, summary["run_dir"])
        assert start(tmp_path, max_failures=0)[1] == ["restored"]
    else:
        assert steps(tmp_path) == [*done, "2: 3"]  # its last step, done again


def have_begun_later(study: Path) -> None:
    """As if the local time of what has begun were one to come: the time zone has changed since."""
    later = "2999-01-01_00-00-00"
    (state,), (callbacks,) = study.glob("experiment_state-*.json"), study.glob("callback-states-*.pkl")
    content = json.loads(state.read_text())
    content["runner_data"]["_session_str"] = later
    state.write_text(json.dumps(content))
    state.rename(study / f"experiment_state-{later}.json")
    callbacks.rename(study / f"callback-states-{later}.pkl")


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_start_goes_on_from_the_newest_state_whatever_the_clock_says(started_ray: None, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    assert [trial.status for trial in start(tmp_path, max_failures=0)[0]] == ["finished", "failed"]
    have_begun_later(tmp_path / "outputs" / "counted")
    (tmp_path / "broken").unlink()
    assert [trial.status for trial in start(tmp_path, max_failures=0)[0]] == ["finished", "finished"]
    outcomes, events = start(tmp_path, max_failures=0)
    assert [trial.status for trial in outcomes] == ["finished", "finished"] and events == ["restored"]
    assert steps(tmp_path) == ["1: 1", "1: 2", "1: 3", "2: 1", "2: 2", "2: 3"]


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_trial_that_is_impossible_takes_no_other_one_with_it_when_the_study_goes_on(
    started_ray: None, tmp_path: Path
) -> None:
    (tmp_path / "impossible").touch()
    (one, two), _ = start(tmp_path, max_failures=1)
    assert (one.status, one.failures, two.status) == ("failed", 1, "finished")
    done = ["2: 1", "2: 2", "2: 3"]
    assert steps(tmp_path) == done

    for retries_failed in (False, True):
        (one, two), _ = start(tmp_path, max_failures=1, retries_failed=retries_failed)
        assert (one.status, one.error, two.status) == ("failed", "no node has 64 CPUs", "finished")
        assert steps(tmp_path) == done

    (tmp_path / "impossible").unlink()
    (one, two), _ = start(tmp_path, max_failures=1)
    assert (one.status, two.status) == ("finished", "finished")
    assert steps(tmp_path) == [*done, "1: 1", "1: 2", "1: 3"]
