"""Where a study is: its directory or its place in an object store, and what it remembers there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pyarrow.fs import FileSystem
from pydantic import TypeAdapter, ValidationError

from s2l_ray.config import parse_config
from s2l_ray.config.problems import problem_of_record
from s2l_ray.config.run import directory_name
from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.machine.places import existing_output, output_path
from s2l_ray.machine.reading import MISREAD
from s2l_ray.machine.storage import Storage
from s2l_ray.tuning.reading import parse_study
from s2l_ray.tuning.space import Values
from s2l_ray.tuning.store_lock import StoreLock

STATE, RESULTS = "study.yaml", "tune.json"
TUNES = "experiment_state-"
"""How the files of Tune's own state begin."""
FORMAT = 1
EXPERIMENT = "experiment.yaml"
"""What an experiment has beside `STATE`: it is more than the study that it runs."""


@dataclass
class StudyState:
    """What a study is, as it was given, and how far it is. JSON values."""

    configuration: str
    """CONFIG, as it was given."""
    config: dict[str, Any]
    """What is not varied, whole, with absolute paths."""
    study: dict[str, Any]
    """The study's file, with every default."""
    trials: list[Values] | None
    """Per trial, every value in which its configuration differs; None where values are suggested while it runs."""
    given: Values = field(default_factory=dict)
    """Paths of `config` as they were given, by dotted key: what they mean on another machine."""
    pins: dict[str, list[str]] = field(default_factory=dict)
    """Per key what was asked for on the Hub, and the same with a commit."""
    finished: bool = False
    seconds: float = 0.0
    """For how long it ran, all starts together."""
    mlflow_run_id: str | None = None
    mlflow_uri: str | None = None
    """Where that is, without passwords: the next start may not have the server in its environment."""
    bank: dict[str, Any] = field(default_factory=dict)
    """Numbers about the shared bank."""
    held: dict[str, int] = field(default_factory=dict)
    """What the bank had of its own, see `study_bank.least`."""
    format: int = FORMAT


class StudyPlace:
    """A study's directory, or its place in an object store.

    Args:
        url: the directory or URI.
        key: what gives it, for messages.

    Raises:
        StorageError: the store cannot be used.
    """

    def __init__(self, url: str, key: str = "storage") -> None:
        self.storage = Storage(url, key)
        plain = str(self.storage)
        self.name = plain.rpartition("/")[2]
        self.is_local = self.storage.is_local
        self.directory = Path(plain.removeprefix("file://")) if self.is_local else output_path("outputs") / self.name
        """On this machine: what is shown and drawn is written here, and copied to a store."""
        self.lock: StoreLock | None = None
        """This process's, where it drives a study in a store."""

    def __str__(self) -> str:
        return str(self.storage)

    @classmethod
    def of(cls, storage: str, name: str) -> StudyPlace:
        """The place of a study with this name."""
        if "://" not in storage:
            return cls(str(output_path(storage) / directory_name(name)))
        return cls(within(storage, directory_name(name)))

    @classmethod
    def existing(cls, given: str) -> StudyPlace:
        """The place that `--resume` names.

        Raises:
            ConfigError: there is no study, or it is an experiment's.
        """
        place = cls(given if "://" in given else str(existing_output(given)), "--resume")
        if place.storage.exists(EXPERIMENT):
            raise ConfigError(f"{place} is an experiment's: give the s2l experiment command that began it again")
        if place.read() is None:
            raise ConfigError(f"{place} holds no study: there is no {STATE} in it")
        return place

    @property
    def for_tune(self) -> tuple[FileSystem, str]:
        """What Tune needs: the file system, and the path of the directory that the study's is in."""
        filesystem, path = self.storage.opened
        return filesystem, path.rpartition("/")[0]

    @property
    def has_tunes_state(self) -> bool:
        """Whether Tune has written its state at least once."""
        return any(name.startswith(TUNES) for name, _ in self.storage.files("", ".json"))

    @property
    def has_results(self) -> bool:
        """Whether the table of a study's results is there and whole."""
        try:
            return self.storage.exists(RESULTS) and bool(json.loads(self.storage.read(RESULTS))["trials"])
        except MISREAD:
            return False

    def read(self) -> StudyState | None:
        """The study's state; None if there is none.

        Raises:
            ConfigError: it is damaged, or of another version of s2l-ray.
        """
        if not self.storage.exists(STATE):
            return None
        try:
            values = yaml.safe_load(self.storage.read(STATE))
        except (yaml.YAMLError, ValueError, RecursionError):
            raise self.damaged("it is not valid YAML") from None
        if not isinstance(values, dict) or "format" not in values:  # the last key, which a file that is cut off lacks
            raise self.damaged("it is not whole")
        if values["format"] != FORMAT:
            raise ConfigError(f"{self}/{STATE} is of another version of s2l-ray")
        try:
            return TypeAdapter(StudyState).validate_python(values)
        except ValidationError as error:
            raise self.damaged(problem_of_record(error)) from None

    def damaged(self, reason: str) -> ConfigError:
        """The error of a study whose state is no longer what was written."""
        return ConfigError(
            f"{self}/{STATE} is damaged ({reason}); put a copy of it back, or begin a study with another name "
            "(tune.name=...)"
        )

    def check(self) -> None:
        """Make sure that the place in a store is this process's, which has it for as long as `lock` is held.

        Raises:
            ConfigError: another driver has taken it over.
        """
        if self.lock is not None:
            self.lock.check()

    def write(self, state: StudyState) -> None:
        """Remember the state, whole or not at all.

        Raises:
            ConfigError: as `check`.
            StorageError: the store cannot be used.
        """
        self.check()
        text = yaml.safe_dump(asdict(state), sort_keys=False, allow_unicode=True)
        self.storage.put(STATE, text.encode())

    def upload(self, files: list[Path]) -> None:
        """Copy files of `directory` to the store. A local study has them already.

        Raises:
            ConfigError: as `check`.
            StorageError: they could not be copied.
        """
        if self.is_local:
            return
        self.check()
        try:
            for file in files:
                self.storage.put(file.relative_to(self.directory).as_posix(), file.read_bytes())
        except (OSError, StorageError) as error:
            raise StorageError(f"{self.directory} could not be copied to {self}: {error}") from error


def within(url: str, name: str) -> str:
    """The URI of something in the directory that a URI names; its options stay behind the path."""
    path, mark, options = url.partition("?")
    scheme, slashes, rest = path.partition("://")  # `rest` may be empty, of s3://$BUCKET without a BUCKET
    return f"{scheme}{slashes}{rest.rstrip('/')}/{name}{mark}{options}"


def next_free(storage: str, name: str) -> tuple[StudyPlace, StudyState | None]:
    """The first of NAME, NAME-2, ... that does not hold a finished study, and the state of an unfinished one.

    Raises:
        ConfigError: a run is there.
    """
    number = 1
    while True:
        place = StudyPlace.of(storage, name if number == 1 else f"{name}-{number}")
        state = place.read()
        if state is None and place.storage.exists("config.yaml"):
            raise ConfigError(f"{place} is the directory of a run; give the study another name (tune.name=...)")
        if state is None or not state.finished:
            return place, state
        number += 1


def refuse_differences(place: StudyPlace, before: StudyState, now: StudyState) -> None:
    """Refuse to go on with a study as if it were another one.

    Raises:
        ConfigError: it names what differs.
    """
    # With what keys stand for that an earlier version, which began the study, did not know.
    study = parse_study(before.study, str(place)).model_dump(mode="json", exclude_none=True)
    config = parse_config(before.config, str(place)).model_dump(mode="json")
    problems = _differences("", study, now.study, FREE_OF_STUDY)
    problems += _differences("", config, now.config, (*FREE_OF_CONFIG, *study["space"]))
    if problems:
        raise ConfigError(
            f"{place} holds an unfinished study with other settings; give it the same ones, or another name "
            "(tune.name=...). They differ in\n  " + "\n  ".join(problems)
        )


FREE_OF_STUDY = ("storage", "max_failures", "name", "nodes_per_trial", "cpus_per_trial")
FREE_OF_CONFIG = ("cluster", "placement", "tracking", "checkpoint", "recovery", "run_dir")
"""What may differ when a study goes on, beside the values of the keys that it varies."""


def _differences(prefix: str, before: Any, now: Any, free: tuple[str, ...]) -> list[str]:
    if prefix in free:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [
            problem
            for key in keys
            for problem in _differences(f"{prefix}.{key}" if prefix else key, before.get(key), now.get(key), free)
        ]
    return [] if before == now else [f"{prefix}: {before!r} before, {now!r} now"]
