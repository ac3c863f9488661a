"""Tune's loop as a study runs it, on a private Ray with trials that do no work: who runs, fails, is resumed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.tune import Callback

from actors.connection import connect
from actors.private_ray import end_private_ray
from s2l_ray.config import load_config
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.domain import Domain
from s2l_ray.tuning.observer import StudyObserver
from s2l_ray.tuning.outcomes import TrialOutcome
from s2l_ray.tuning.place import StudyPlace
from s2l_ray.tuning.samples import nested_with
from s2l_ray.tuning.schedulers import build_scheduler
from s2l_ray.tuning.searching import Drawn, StudyTrials
from s2l_ray.tuning.space import Space, Values
from s2l_ray.tuning.study_file import SchedulerSection, StudyFile
from s2l_ray.tuning.tune_loop import Loop
from tests.support.patience import until
from tests.support.quick_trial import STEPS, Quick

RATE = "trainer.learning_rate"
BASE = load_config("quickstart", {"schedule.steps": STEPS, "schedule.mix_steps": 2, "evaluation.every": 2})
SPACE = Space({RATE: Domain(uniform=(1.0, 9.0))})


class Stopped(Callback):
    """Ends the loop as a signal does, once a trial has done so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result["step"] == self.step:
            signal.raise_signal(signal.SIGUSR1)


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    assert connect()
    yield
    end_private_ray()


def study(
    directory: Path, rates: Sequence[float], section: SchedulerSection, at_once: int = 2, stop: Callback | None = None
) -> list[TrialOutcome]:
    file = StudyFile(space=dict(SPACE.domains), scheduler=section)
    about = StudyAbout(
        name="quick", keys=(RATE,), trials=len(rates), steps=STEPS, directory=directory, place=str(directory)
    )
    observer = StudyObserver(about)
    base = BASE.model_dump(mode="json") | {"run_dir": str(directory / "logs")}

    def configured(number: int, values: Values) -> dict[str, Any]:
        return nested_with(base, values)

    unfinished = len(rates) if section.kind == "pbt" else at_once
    is_pbt = section.kind == "pbt"
    values: list[Values] = [{RATE: rate} for rate in rates]
    search = StudyTrials("quick", len(rates), Drawn(values), configured, unfinished, keeps_actors=is_pbt)
    Loop(
        name="quick",
        place=StudyPlace(str(directory)),
        search=search,
        scheduler=build_scheduler(file, SPACE, BASE, STEPS, at_once),
        callbacks=[observer, *([stop] if stop else [])],
        max_failures=1,
        at_once=at_once,
        exploits=is_pbt,
        trainable=Quick,
    ).run()
    return observer.outcomes


def test_trials_fail_alone_and_only_what_may_be_mended_is_tried_again(own_ray: None, tmp_path: Path) -> None:
    before = set(Path.home().glob("ray_results/*"))
    found = study(tmp_path, [3, 4, 5, 6, 7], SchedulerSection())
    assert [(one.name, one.status, one.step, one.failures) for one in found] == [
        ("quick_00001", "finished", 6, 0),
        ("quick_00002", "failed", 2, 1),
        ("quick_00003", "finished", 6, 1),
        ("quick_00004", "failed", 0, 1),
        ("quick_00005", "finished", 6, 0),
    ]
    assert found[1].error == "data.train: row 3 is empty"
    assert found[3].error == "trainer.learning_rate: 6 is impossible"
    assert set(Path.home().glob("ray_results/*")) == before
    assert not list(tmp_path.rglob("events.out.tfevents*"))


def test_asha_prunes_and_a_stopped_study_goes_on_with_its_trials_and_rungs(own_ray: None, tmp_path: Path) -> None:
    section = SchedulerSection(kind="asha", grace=2, reduction_factor=2)
    first = study(tmp_path, [9, 8, 7], section, at_once=1, stop=Stopped(5))
    assert [(one.name, one.status) for one in first] == [("quick_00001", "stopped")]
    found = study(tmp_path, [9, 8, 7], section, at_once=1)
    assert [(one.name, one.status, one.step) for one in found] == [
        ("quick_00001", "finished", 6),
        ("quick_00002", "pruned", 2),  # 16 at step 2, where the first trial had 18 before the study was stopped
        ("quick_00003", "pruned", 2),
    ]


def test_pbt_gives_the_worst_trial_the_best_ones_state_and_values_within_bounds(own_ray: None, tmp_path: Path) -> None:
    section = SchedulerSection(kind="pbt", interval=2, quantile=0.25, resample=0.0)
    found = study(tmp_path, [1, 2, 3, 9], section)
    assert [(one.status, one.step) for one in found] == [("finished", 6)] * 4
    exploits = [(one.name, exploit) for one in found for exploit in one.exploits]
    assert exploits and all(exploit.step in (2, 4) for _, exploit in exploits)
    assert exploits[0][1].donor == "quick_00004" and exploits[0][0] == "quick_00001"
    assert all(7.2 <= found[0].values[RATE] <= 9.0 for _ in exploits)  # 9 * 0.8, or 9 * 1.2 within the bounds
    assert len({file.read_text() for file in (tmp_path / "logs").rglob("[0-9]*")}) == 2  # processes: two at once
    repeated = study(tmp_path / "again", [1, 2, 3, 9], section)
    assert [one.values for one in repeated] == [one.values for one in found]


def test_a_population_goes_on_without_a_trial_that_fails_for_good(own_ray: None, tmp_path: Path) -> None:
    section = SchedulerSection(kind="pbt", interval=3, quantile=0.25, resample=0.0)
    found = study(tmp_path, [3, 4, 2], section)
    assert [one.status for one in found] == ["finished", "failed", "finished"]


def test_nothing_of_a_study_is_left(own_ray: None) -> None:
    until(lambda: ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"])
    assert "TUNE_MAX_PENDING_TRIALS_PG" not in os.environ
