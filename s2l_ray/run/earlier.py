"""What a run directory says of the run that it holds, before it is known whether that is the same run."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from s2l_ray.config import Config
from s2l_ray.config.loading import load_config
from s2l_ray.errors import ConfigError, DataError, S2LError
from s2l_ray.machine.disk import read_json
from s2l_ray.run.checkpoints import named_checkpoint, read_state
from s2l_ray.tasks.sources import Pin

CONFIGURATION = "config.yaml"
MEMORY = "run.json"


def begun_on(config: Config) -> datetime.date | None:
    """data.date of the run that a run with this configuration resumes; None if it resumes none, or that has none.

    Raises:
        ConfigError: `resume` names no whole checkpoint, or the directory's config.yaml cannot be read.
        DataError: the checkpoint is damaged.
    """
    before = config.run_path / CONFIGURATION
    if before.exists():
        return read_configuration(before).data.date
    if config.resume in ("auto", "never"):
        return None
    date = read_state(named_checkpoint(config.resume)).get("date")
    return datetime.date.fromisoformat(date) if date else None


def pins_of(path: Path) -> dict[str, Pin]:
    """What the run that a directory holds took from the Hub, by key; {} if it holds none.

    Raises:
        DataError: run.json is damaged.
    """
    memory = path / MEMORY
    pins = read_memory(memory).get("hub", {}) if memory.exists() else {}
    try:
        return {key: Pin(str(pin["asked"]), str(pin["pinned"])) for key, pin in pins.items()}
    except (AttributeError, KeyError, TypeError):
        raise DataError(
            f"{memory} is damaged (hub: {pins!r:.80}); restore it, or remove its `hub`: the run then takes the commits "
            "at which its branches are now"
        ) from None


def read_memory(path: Path) -> dict[str, Any]:
    """The contents of a run.json.

    Raises:
        DataError: it is damaged.
    """
    return read_json(path, "remove it: the run then continues in a new MLflow run")


def read_configuration(path: Path) -> Config:
    """The configuration in the config.yaml of a run directory.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return load_config(path)
    except S2LError as error:
        raise ConfigError(
            f"the configuration of the run that {path.parent} holds cannot be read; restore the file, or choose "
            f"another run_dir: {error}"
        ) from None
