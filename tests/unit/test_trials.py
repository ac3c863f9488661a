"""A run as a trial of Tune: its name, its directory and what Tune is told of its steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs
import pytest

from s2l_ray.config.loading import parse_config
from s2l_ray.results import EvaluationRecord
from s2l_ray.trials.results import trial_result
from s2l_ray.trials.trial import as_trial
from tests.support.step_records import evaluation, step


@pytest.mark.parametrize(
    ("run_dir", "local", "expected"),
    [
        (None, True, "/results/sweep/S2LPO_1"),
        (None, False, "outputs/mine/S2LPO_1"),
        ("sweep", True, "sweep/S2LPO_1"),
        ("/sweep", False, "/sweep/S2LPO_1"),
    ],
)
def test_a_trial_has_its_own_name_and_a_directory_that_it_shares_with_no_other(
    run_dir: str | None, local: bool, expected: str
):
    values = {"name": "mine", "run_dir": run_dir, "models": {"learner": "l", "explorer": "e"}, "data": {"train": "t"}}
    files = pyarrow.fs.LocalFileSystem() if local else pyarrow.fs.SubTreeFileSystem("/", pyarrow.fs.LocalFileSystem())
    storage = SimpleNamespace(
        storage_filesystem=files, trial_fs_path="/results/sweep/S2LPO_1", trial_dir_name="S2LPO_1"
    )
    trial = as_trial(parse_config(values), storage, "S2LPO_7")
    assert (trial.run_dir, trial.name) == (str(Path(expected).absolute()), "S2LPO_7")


def result(steps: int, newest: EvaluationRecord | None) -> dict:
    run = SimpleNamespace(
        records=[step(number) for number in range(1, steps + 1)],
        newest_evaluation=newest,
        mlflow_run_id="0af3",
        settings=SimpleNamespace(run_path=Path("/results/S2LPO_1")),
        steps_done=steps,
        done=steps == 4,
    )
    return trial_result(run)


def test_tune_is_told_flat_numbers_by_mlflows_names_and_where_the_run_is():
    told = result(3, None)
    assert (told["step"], told["done"], told["reward"], told["trainer/loss"]) == (3, False, 0.4, 0.25)
    assert (told["mlflow_run_id"], told["run_dir"]) == ("0af3", "/results/S2LPO_1")
    assert told["verdicts/explorer/right"] == 1 and told["tokens"] == 100
    assert all(isinstance(value, (int, float, str)) for value in told.values())
    assert not any(name.startswith("eval/") for name in told)
    assert result(4, None)["done"]


def test_the_newest_evaluation_is_repeated_with_the_step_that_it_is_of():
    for steps in (2, 3):
        told = result(steps, evaluation("learner", 2))
        assert (told["step"], told["eval/learner/step"], told["eval/learner/pass_at_1"]) == (steps, 2, 0.2)
    assert told["eval/learner/pass_at_1_low"] == 0.1 and told["eval/learner/pass_at_8_high"] == 0.6
