"""Checkpoints of a run on disk: writing one, finding those that are whole, reading one back.

step-000020/trainer/     the trainer's own state: sharded model, optimizer, random number generators
step-000020/steps.jsonl  the step log up to and including the step
step-000020/state.json   everything else; written last, so that a directory without it is not a checkpoint

Those of a later branch of a trial's history (see `lineage`) are named step-000020-branch-1. Branches, and within one
its steps, are the order from old to new.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.errors import ConfigError, DataError, DiskError
from s2l_ray.machine.disk import read_json, write_whole, writing
from s2l_ray.machine.places import existing_output
from s2l_ray.results import StepRecord
from s2l_ray.step_log import StepLog

CHECKPOINTS = "checkpoints"
TRAINER = "trainer"
STATE = "state.json"
STEPS = "steps.jsonl"
NAME = re.compile("step-([0-9]+)(?:-branch-([1-9][0-9]*))?")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, read back."""

    directory: Path
    step: int
    """The last step that it includes."""
    branch: int
    """Number of the branch of a trial's history that it belongs to; 0: the first one."""
    state: dict[str, Any]
    """Contents of state.json."""
    records: list[StepRecord]
    """One for each step up to `step`."""

    @property
    def trainer(self) -> Path:
        """Directory of the trainer's own state."""
        return self.directory / TRAINER


@contextmanager
def writing_checkpoint(directory: Path, log: StepLog, state: Mapping[str, Any]) -> Iterator[Path]:
    """Write a checkpoint into `directory`: whole once the block has ended, absent if the block raises.

    The block is given the directory for the trainer's state. It may append to `log`: the copy is taken when it ends. A
    checkpoint that the directory already holds is replaced, and is gone from the start of the block on.

    Args:
        directory: made if it does not exist; other files in it are left alone.
        log: the run's step log.
        state: contents of state.json; it names the `step`.

    Raises:
        DiskError: the directory cannot be written to.
    """
    directory = directory.resolve()
    _discard(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        yield directory / TRAINER
        log.copy_to(directory / STEPS)
        write_whole(directory / STATE, json.dumps(state, indent=2) + "\n")
    except BaseException:
        with suppress(DiskError):  # what the block raised says more
            _discard(directory)
        raise


def read_state(directory: Path) -> dict[str, Any]:
    """Read the state.json of a checkpoint. Its `step` is an integer.

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


def read_checkpoint(directory: Path, learner: Mapping[str, Any]) -> Checkpoint:
    """Read a whole checkpoint and check that it belongs to a learner.

    Args:
        directory: that holds the checkpoint.
        learner: the learner that is to load it, as `identity.learner_of` describes it.

    Raises:
        ConfigError: the directory is not a whole checkpoint, or is a checkpoint of another learner.
        DataError: it is damaged.
    """
    state = read_state(directory)
    _check_learner(directory, state.get("learner", {}), learner)
    records = StepLog(directory / STEPS).read()
    if len(records) != state["step"]:
        raise DataError(
            f"{directory / STEPS} is damaged (it has {len(records)} of {state['step']} steps); {_remedy(directory)}"
        )
    branch, _ = place_of(directory.name) or (0, 0)
    return Checkpoint(directory, state["step"], branch, state, records)


def checkpoint_name(step: int, branch: int = 0) -> str:
    """Name of a checkpoint's directory."""
    return f"step-{step:06d}" + (f"-branch-{branch}" if branch else "")


def place_of(name: str) -> tuple[int, int] | None:
    """(branch, step) of a checkpoint by its directory's name: larger is newer. None: no checkpoint has this name."""
    found = NAME.fullmatch(name)
    return None if found is None else (int(found[2] or 0), int(found[1]))


def checkpoints_in(run: Path) -> list[tuple[int, Path]]:
    """(step, directory) of every whole checkpoint in a run directory, oldest first; other names are none of ours."""
    found = [state.parent for state in (run / CHECKPOINTS).glob(f"step-*/{STATE}")]
    placed = sorted((place, directory) for directory in found if (place := place_of(directory.name)) is not None)
    return [(step, directory) for (_, step), directory in placed]


def named_checkpoint(name: str) -> Path:
    """The directory of the checkpoint that `resume` names: itself, or the newest one of the run directory it names.

    Raises:
        ConfigError: it is neither a checkpoint nor a run directory that has one.
    """
    path = existing_output(name).resolve()
    if (path / STATE).exists():
        return path
    if checkpoints := checkpoints_in(path):
        return checkpoints[-1][1]
    raise ConfigError(
        f"resume: {path} is neither a whole checkpoint (it has no {STATE}) nor the directory of a run that has one"
    )


def _discard(directory: Path) -> None:
    """Remove a checkpoint, whole or not. Its state.json goes first: a half-deleted directory is not a checkpoint."""
    if directory.exists():
        with writing(directory):
            (directory / STATE).unlink(missing_ok=True)
            (directory / STEPS).unlink(missing_ok=True)
            shutil.rmtree(directory / TRAINER, ignore_errors=True)


def _check_learner(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differ = [f"{key} was {before[key]}, now {now.get(key)}" for key in before if before[key] != now.get(key)]
    if differ:
        raise ConfigError(
            f"{directory} is a checkpoint of another learner ({'; '.join(differ)}); give the run the learner that it "
            "was trained from"
        )


def _remedy(directory: Path) -> str:
    return f"remove {directory}: the run then resumes from the checkpoint before it, or begins anew"
