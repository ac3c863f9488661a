"""A run as a trial of Tune: its name, its directory and what Tune is told of its steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs
import pytest

from s2l_ray.config import Config
from s2l_ray.config.loading import parse_config
from s2l_ray.errors import ConfigError, DiskError
from s2l_ray.results import EvaluationRecord
from s2l_ray.trials.messages import plainly
from s2l_ray.trials.results import trial_result
from s2l_ray.trials.trial import as_trial
from tests.support.step_records import evaluation, step


def told(run_dir: str | None, storage_path: str, **given: object) -> Config:
    """The configuration of a trial, of a Tuner with this storage."""
    values = {"name": "mine", "run_dir": run_dir, "models": {"learner": "l", "explorer": "e"}, "data": {"train": "t"}}
    files, path = pyarrow.fs.FileSystem.from_uri(storage_path)
    storage = SimpleNamespace(storage_filesystem=files, trial_fs_path=f"{path}/sweep/S2LPO_1", trial_dir_name="S2LPO_1")
    return as_trial(parse_config({**values, **given}), storage, "S2LPO_7")


S3 = "s3://bucket/my%20results?scheme=http&endpoint_override=127.0.0.1%3A9&region=us-east-2"
GCS = "gs://anonymous@bucket/results?scheme=http&endpoint_override=127.0.0.1%3A9&retry_limit_seconds=2"


@pytest.mark.parametrize(
    ("run_dir", "storage_path", "expected"),
    [
        (None, "/results", "/results/sweep/S2LPO_1"),
        (None, S3, "outputs/mine/S2LPO_1"),
        ("sweep", "/results", "sweep/S2LPO_1"),
        ("/sweep", S3, "/sweep/S2LPO_1"),
    ],
)
def test_a_trial_has_its_own_name_and_a_directory_that_it_shares_with_no_other(
    run_dir: str | None, storage_path: str, expected: str
):
    trial = told(run_dir, storage_path)
    assert (trial.run_dir, trial.name) == (str(Path(expected).absolute()), "S2LPO_7")


def test_the_mirror_of_a_trial_is_its_directory_in_tunes_storage_where_that_is_a_store():
    assert told(None, "/results").checkpoint.mirror is None
    for uri in (S3, GCS):
        mirror = told(None, uri).checkpoint.mirror
        assert mirror is not None
        files, path = pyarrow.fs.FileSystem.from_uri(mirror)
        asked, root = pyarrow.fs.FileSystem.from_uri(uri)
        assert path == f"{root}/sweep" and files == asked  # so that the mirror of run directory S2LPO_1 is the trial's
    assert told(None, S3, checkpoint={"mirror": "elsewhere"}).checkpoint.mirror == "elsewhere"
    uri = "s3://KEY:SECRET@bucket/results?region=us-east-2"
    assert told(None, uri).checkpoint.mirror == "s3://bucket/results/sweep?scheme=https&region=us-east-2"


def test_storage_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="of the kind mock; give a directory, s3://"):
        told(None, "mock://results")


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


class Trainable:
    def __init__(self, storage: object) -> None:
        self._storage = storage

    @plainly
    def step(self) -> None:
        self._deeper()

    def _deeper(self) -> None:
        raise DiskError("free some space")


@pytest.mark.parametrize(("storage", "frames"), [(None, ["plain", "step", "_deeper"]), ("/results", ["plain"])])
def test_the_errors_of_a_trial_are_their_messages_and_others_keep_their_traceback(storage: object, frames: list[str]):
    with pytest.raises(DiskError, match="free some space") as caught:
        Trainable(storage).step()
    assert [entry.name for entry in caught.traceback][1:] == frames
