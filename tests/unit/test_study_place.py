"""Where a study is kept: a directory, or an object store that is all that its machines share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from s2l_ray.config import TrackingConfig, load_config
from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.experiments.memory import Memory
from s2l_ray.reporter import SilentReporter
from s2l_ray.tuning import store_lock
from s2l_ray.tuning.driver import _refuse_another_state, run_study
from s2l_ray.tuning.parent_run import check_store
from s2l_ray.tuning.place import StudyPlace, StudyState, within
from s2l_ray.tuning.preparing import prepare, prepare_again
from s2l_ray.tuning.reading import parse_study
from s2l_ray.tuning.resending import find_study, resend_study
from s2l_ray.tuning.store_lock import StoreLock
from tests.support.object_stores import Store, s3


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with s3() as started:
        yield started


def test_a_name_goes_before_the_options_of_a_uri() -> None:
    assert within("s3://bucket/a/?region=x", "study") == "s3://bucket/a/study?region=x"
    assert within("gs://bucket", "study") == "gs://bucket/study"


def test_a_uri_without_a_bucket_is_no_directory_of_this_machine() -> None:
    with pytest.raises(StorageError, match="Not a valid bucket name"):
        StudyPlace.of("s3://", "study")


def test_a_study_in_a_store_is_found_again_by_another_machine(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = store.uri("bucket/studies")
    file = parse_study({"name": "s", "trials": 2, "space": {"trainer.learning_rate": [1e-4, 2e-4]}, "storage": uri})
    first = prepare("quickstart", file, [], SilentReporter())
    assert (first.base.bank.path, first.place.is_local) == (within(uri, "bank"), False)
    assert str(first.place) == "s3://bucket/studies/s" and first.place.directory == tmp_path / "outputs" / "s"
    first.place.write(first.state)
    assert not first.place.has_tunes_state

    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    place = StudyPlace.existing(within(uri, "s"))
    again = prepare_again(place, [])
    assert [sample.config for sample in again.samples] == [sample.config for sample in first.samples]
    filesystem, path = place.for_tune
    assert path == "bucket/studies"
    with filesystem.open_output_stream(f"{path}/s/experiment_state-1.json") as stream:
        stream.write(b"{}")
    assert place.has_tunes_state

    place.directory.mkdir(parents=True)
    (place.directory / "tune.json").write_text("{}")
    place.upload([place.directory / "tune.json"])
    assert place.storage.read("tune.json") == b"{}"
    store.fails = lambda method, path: method == "PUT"
    with pytest.raises(StorageError, match="could not be copied to s3://bucket/studies/s"):
        place.upload([place.directory / "tune.json"])
    store.fails = lambda method, path: False


def test_a_database_of_one_machine_is_none_for_trials_on_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("S2L_OUTPUTS", str(tmp_path))
    place, config = StudyPlace.of(store.uri("bucket/studies"), "s"), TrackingConfig()
    server = "http://mlflow:5000"
    for named in (config, TrackingConfig(uri="sqlite:////shared/mlflow.db")):
        with pytest.raises(ConfigError, match=r"mlflow.db is a file of this machine, and trials run on 2 nodes"):
            check_store(named, place, None, nodes=2)
    check_store(config, place, None, nodes=1)
    check_store(config, place, server, nodes=2)
    check_store(TrackingConfig(uri=server), place, None, nodes=2)
    check_store(TrackingConfig(enabled=False), place, None, nodes=2)
    check_store(config, StudyPlace.of(str(tmp_path), "s"), None, nodes=2)


def test_what_another_start_has_done_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    file = parse_study({"name": "s", "trials": 2, "space": {"trainer.learning_rate": [1e-4, 2e-4]}})
    file = file.model_copy(update={"storage": str(tmp_path)})
    first = prepare("quickstart", file, [], SilentReporter())
    _refuse_another_state(first)
    first.place.write(first.state)
    again = prepare("quickstart", file, [], SilentReporter())
    _refuse_another_state(again)
    first.place.write(replace(first.state, mlflow_run_id="of the other start"))
    for late in (first, again):  # both have read the state before
        with pytest.raises(ConfigError, match="another start of this study has gone on with it"):
            _refuse_another_state(late)


def test_a_study_in_a_store_that_another_process_drives_is_left_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own directory, whose lock is free, is not the other one's."""
    monkeypatch.setenv("S2L_OUTPUTS", str(tmp_path))
    space = {"trainer.learning_rate": [1e-4, 2e-4]}
    file = parse_study({"name": "driven", "trials": 2, "space": space, "storage": store.uri("bucket/studies")})
    other = StoreLock.acquire(StudyPlace.of(file.storage, "driven").storage, pytest.fail)
    with pytest.raises(ConfigError, match="^s3://bucket/studies/driven is driven by process"):
        run_study("quickstart", file, ["cluster.address=127.0.0.1:1"])
    assert not (tmp_path / "driven").exists()
    other.close()


def test_a_study_in_a_store_whose_trials_run_in_rays_session_directory_is_refused_at_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "session_2026-11-29_09-01-02_123456_7" / "runtime_resources" / "working_dir_files" / "x"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    monkeypatch.delenv("S2L_OUTPUTS", raising=False)
    space = {"trainer.learning_rate": [1e-4, 2e-4]}
    file = parse_study({"name": "late", "trials": 2, "space": space, "storage": store.uri("bucket/studies")})
    with pytest.raises(ConfigError, match=r"^\S+/outputs/late is in the session directory .* Set S2L_OUTPUTS to a dir"):
        run_study("quickstart", file)
    assert not (job / "outputs").exists()


def test_paths_that_cannot_be_followed_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="a cannot be looked at: Symlink loop"):
        StudyPlace.existing(str(tmp_path / "a"))
    with pytest.raises(ConfigError, match=r"^n{80}\.\.\. cannot be looked at: File name too long"):
        StudyPlace.existing("n" * 300)
    with pytest.raises(StorageError, match="^storage: Symlink loop"):
        StudyPlace.of(str(tmp_path / "a"), "study")
    with pytest.raises(ConfigError, match="^/ holds no study"):
        StudyPlace.existing("/")


def test_a_directory_without_a_study_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no study: there is no study.yaml in it"):
        StudyPlace.existing(str(tmp_path))
    (tmp_path / "study.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"study.yaml is damaged \(it is not valid YAML\)"):
        StudyPlace.existing(str(tmp_path))


def test_an_experiment_is_not_gone_on_with_as_the_study_that_it_runs(tmp_path: Path) -> None:
    """That would leave out what an experiment does at its end, and call runs that failed finished."""
    place = StudyPlace(str(tmp_path))
    place.write(StudyState("quickstart", {}, {}, None))
    assert str(StudyPlace.existing(str(tmp_path))) == str(tmp_path)
    Memory({}, []).write(place)
    with pytest.raises(ConfigError, match=r"is an experiment's: give the s2l experiment command that began it again"):
        StudyPlace.existing(str(tmp_path))


def test_a_study_in_a_store_is_found_by_its_uri_and_by_its_directory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not tracked, which is said once the study is found."""
    monkeypatch.chdir(tmp_path)
    place = StudyPlace(store.uri("bucket/tracked"))
    place.write(StudyState("quickstart", load_config("quickstart").model_dump(mode="json"), {}, None))
    with pytest.raises(ConfigError, match=f"did not run on this machine: {tmp_path}/outputs/tracked, with what"):
        resend_study(found(store.uri("bucket/tracked")))
    directory = tmp_path / "outputs" / "tracked"
    directory.mkdir(parents=True)
    assert find_study(str(directory)) is None
    (directory / "tune.json").write_text(json.dumps({"directory": store.uri("bucket/tracked")}))
    monkeypatch.setattr(store_lock, "CONFIRM_S", 0.0)
    for given in (store.uri("bucket/tracked"), str(directory)):
        with pytest.raises(ConfigError, match=f"{directory} was not tracked"):
            resend_study(found(given))
    lock = StoreLock.acquire(place.storage, pytest.fail)  # it goes on, perhaps on another machine
    with pytest.raises(ConfigError, match="s3://bucket/tracked is driven by process"):
        resend_study(place)
    lock.close()
    with pytest.raises(ConfigError, match="s3://bucket/none holds no study"):
        resend_study(found(store.uri("bucket/none")))


def found(given: str) -> StudyPlace:
    place = find_study(given)
    assert place is not None
    return place
