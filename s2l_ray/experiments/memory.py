"""What an experiment remembers of itself: its file and overrides as they were when its first run began."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from s2l_ray.config.problems import problem_of_record
from s2l_ray.errors import ConfigError
from s2l_ray.experiments.experiment_file import ExperimentFile
from s2l_ray.machine.reading import misread
from s2l_ray.tuning.place import EXPERIMENT, StudyPlace

FREE = ("axis", "also", "question", "storage", "max_failures", "nodes_per_trial", "cpus_per_trial")
"""Keys without influence on what runs compute and on tests: they may change at any time."""


@dataclass(frozen=True)
class Memory:
    """An experiment as it was given."""

    experiment: dict[str, Any]
    """Its file, with every default."""
    overrides: list[str]
    """Of the configuration."""
    begun: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    """When: ISO 8601."""

    @classmethod
    def of(cls, file: ExperimentFile, overrides: Sequence[str]) -> Memory:
        """That of an experiment that begins now."""
        return cls(file.model_dump(mode="json"), list(overrides))

    @classmethod
    def read(cls, place: StudyPlace) -> Memory | None:
        """That of the experiment in a directory or object store; None if there is none.

        Raises:
            ConfigError: it is damaged.
        """
        if not place.storage.exists(EXPERIMENT):
            return None
        try:
            return TypeAdapter(cls).validate_python(yaml.safe_load(place.storage.read(EXPERIMENT)))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise _damaged(place, error) from None

    def file(self, place: StudyPlace) -> ExperimentFile:
        """The file, checked.

        Raises:
            ConfigError: it is damaged, or of another version of s2l-ray.
        """
        try:
            return ExperimentFile.model_validate(self.experiment)
        except ValidationError as error:
            raise _damaged(place, error) from None

    def write(self, place: StudyPlace) -> None:
        """Keep it, whole or not at all."""
        place.storage.put(EXPERIMENT, yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True).encode())

    def refuse_differences(self, place: StudyPlace, now: Memory) -> None:
        """Refuse to go on with an experiment as if it were another one.

        Raises:
            ConfigError: it names every difference.
        """
        before = self.file(place).model_dump(mode="json")  # with what keys that it did not know yet stand for
        found = _differences(before, now.experiment)
        if sorted(self.overrides) != sorted(now.overrides):
            earlier, given = (" ".join(one.overrides) or "none" for one in (self, now))
            found.append(f"overrides: {earlier} before, {given} now")
        if found:
            raise ConfigError(
                f"{place} holds an experiment with other settings; give it the same ones, or another name "
                "(experiment.name=...). They differ in\n  " + "\n  ".join(found)
            )


def _damaged(place: StudyPlace, error: Exception) -> ConfigError:
    if isinstance(error, ValidationError):
        reason = problem_of_record(error)
    else:
        reason = "it is not valid YAML" if isinstance(error, yaml.YAMLError) else misread(error)
    return ConfigError(f"{place}/{EXPERIMENT} is damaged ({reason}); put a copy of it back")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        name = f"{prefix}{key}"
        if old == new or (not prefix and key in FREE):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{name}.")
        else:
            was, is_now = ("not there" if value is None else repr(value) for value in (old, new))
            found.append(f"{name}: {was} before, {is_now} now")
    return found
