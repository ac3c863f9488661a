"""Checkpoints of a run on disk: which are whole, what is in one beside the trainer's state, and which one is meant.

step-000020/trainer/    the trainer's own
step-000020/steps.jsonl the log of steps, as it was
step-000020/state.json  all else; written last, so that a directory without it is no checkpoint
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.errors import ConfigError, DataError
from s2l_ray.machine.disk import read_json, write_whole
from s2l_ray.results import StepRecord
from s2l_ray.step_log import StepLog

STATE = "state.json"
STEPS = "steps.jsonl"


@dataclass(frozen=True)
class Checkpoint:
    """A whole one."""

    directory: Path
    state: dict[str, Any]
    records: list[StepRecord]
    """Of all steps up to it."""

    @property
    def step(self) -> int:
        return self.state["step"]


def write_state(directory: Path, state: dict[str, Any]) -> None:
    """Make the directory a whole checkpoint."""
    write_whole(directory / STATE, json.dumps(state, indent=2) + "\n")


def read_state(directory: Path) -> dict[str, Any]:
    """What `write_state` wrote.

    Raises:
        ConfigError: the directory is not a whole checkpoint.
        DataError: it is damaged.
    """
    path = directory / STATE
    if not path.exists():
        raise ConfigError(f"{directory} is not a whole checkpoint: it has no {STATE}")
    state = read_json(path, _remedy(directory))
    if not isinstance(state.get("step"), int):
        raise DataError(f"{path} is damaged (it names no step); {_remedy(directory)}")
    return state


def read_checkpoint(directory: Path, learner: dict[str, Any]) -> Checkpoint:
    """A whole checkpoint.

    Args:
        learner: that is to take it, see `identity.learner_of`.

    Raises:
        ConfigError: the directory is not a whole checkpoint, or one of another learner.
        DataError: it is damaged.
    """
    state = read_state(directory)
    _check_learner(directory, state.get("learner", {}), learner)
    records = StepLog(directory / STEPS).read()
    if len(records) != state["step"]:
        raise DataError(
            f"{directory / STEPS} is damaged (it has {len(records)} of {state['step']} steps); {_remedy(directory)}"
        )
    return Checkpoint(directory, state, records)


def checkpoints_in(run: Path) -> list[tuple[int, Path]]:
    """(step, directory) of every whole checkpoint in a run directory, oldest first."""
    found = (run / "checkpoints").glob(f"step-*/{STATE}")
    return sorted((int(state.parent.name.removeprefix("step-")), state.parent) for state in found)


def named_checkpoint(name: str) -> Path:
    """The directory of the checkpoint that `resume` names: itself, or the newest of the run directory that it is.

    Raises:
        ConfigError: it is neither.
    """
    path = Path(name).expanduser().resolve()
    if (path / STATE).exists():
        return path
    if checkpoints := checkpoints_in(path):
        return checkpoints[-1][1]
    raise ConfigError(
        f"resume: {path} is neither a whole checkpoint (it has no {STATE}) nor the directory of a run that has one"
    )


def _check_learner(directory: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differ = [f"{key} was {before[key]}, now {now.get(key)}" for key in before if before[key] != now.get(key)]
    if differ:
        raise ConfigError(
            f"{directory} is a checkpoint of another learner ({'; '.join(differ)}); give the run the learner that it "
            "was trained from"
        )


def _remedy(directory: Path) -> str:
    return f"remove {directory}: the run then goes on from the checkpoint before it, or begins"
