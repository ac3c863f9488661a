"""Sending MLflow what it lacks of a study that is over."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from s2l_ray.config import Config, parse_config
from s2l_ray.errors import ConfigError
from s2l_ray.machine.disk import read_json
from s2l_ray.machine.places import existing_output
from s2l_ray.redaction import redact
from s2l_ray.run.directory import LOCK
from s2l_ray.run.lock import RunLock
from s2l_ray.run.tracking import named_in_vain, saying_which_store, where_it_was_tracked
from s2l_ray.tracking.sending import send_undelivered
from s2l_ray.tuning.outcomes import study_files
from s2l_ray.tuning.place import STATE, StudyPlace, StudyState
from s2l_ray.tuning.store_lock import StoreLock


def find_study(given: str) -> StudyPlace | None:
    """The study, or the experiment, that a directory or a URI is of; None: it is not of one.

    A study in an object store has a directory on the machine that it ran on. Its table there says where the study is.

    Raises:
        ConfigError: the operating system cannot follow the path.
        DataError: the table is damaged.
        StorageError: the object store cannot be used.
    """
    if "://" in given:
        return StudyPlace(given, "RUN")
    path = existing_output(given)
    if (path / STATE).is_file():
        return StudyPlace(str(path), "RUN")
    table = study_files(path)["table"]
    if table.is_file() and "://" in (place := str(read_json(table, "put a copy of it back").get("directory"))):
        return StudyPlace(place, "RUN")
    return None


def resend_study(place: StudyPlace) -> str:
    """Send what undelivered.jsonl has of the study's own MLflow run. Each trial has its own file.

    Args:
        place: of the study. What is not delivered is in its directory on the machine that it ran on, which is this one.

    Returns:
        What was sent, in a sentence.

    Raises:
        ConfigError: there is no study, it did not run on this machine, it was not tracked, or it is running; or its
            state is damaged.
        DataError: what is not delivered cannot be read.
        StorageError: the object store cannot be used.
        TrackingError: MLflow cannot be used, has not got the run, or did not take everything.
    """
    state = place.read()
    if state is None:
        raise ConfigError(f"{redact(str(place))} holds no study: there is no {STATE} in it")
    directory = place.directory.resolve()
    if not directory.is_dir():
        raise ConfigError(f"the study did not run on this machine: {directory}, with what MLflow lacks, is not there")
    config = parse_config(state.config, f"{place}/{STATE}")
    try:
        lock = RunLock.acquire(directory / LOCK, config.cluster.lock_timeout_s, print)
    except ConfigError as error:
        raise ConfigError(str(error).replace("; wait for it, or choose another run_dir", "; wait for it")) from None
    with closing(lock):
        if place.is_local:
            return _send(state, config, directory)
        with closing(StoreLock.acquire(place.storage, print)):  # it may go on on another machine
            return _send(state, config, directory)


def _send(state: StudyState, config: Config, directory: Path) -> str:
    if state.mlflow_run_id is None:
        raise ConfigError(
            f"{directory} was not tracked (tracking.enabled): there is no MLflow run to send to. s2l track TRIAL logs "
            "one of its trials from the files in the trial's directory"
        )
    tracking = where_it_was_tracked(config.tracking, state.mlflow_uri)
    with saying_which_store(config.tracking, state.mlflow_uri, directory):
        said = send_undelivered(tracking, directory, state.mlflow_run_id, "FINISHED" if state.finished else "KILLED")
    return said + named_in_vain(config.tracking)
