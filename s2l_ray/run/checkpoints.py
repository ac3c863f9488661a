"""Checkpoints of a run on disk: writing one, finding those that are whole, reading one back.

step-000020/trainer/       the trainer's own state, see `training.checkpoint`
step-000020/steps.jsonl    the step log up to and including the step
step-000020/manifest.json  size and SHA-256 of every other file
step-000020/state.json     everything else; comes last, so that a directory without it is not a checkpoint

All of it is written into step-000020/.partial/ and moved from there when it is whole.

Those of a later branch of a trial's history (see `lineage`) are named step-000020-branch-1. Branches, and within one
its steps, are the order from old to new.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.errors import ConfigError, DataError
from s2l_ray.machine.checksums import FileSum, sum_of, write_summed
from s2l_ray.machine.disk import read_json, sync_directory, write_whole, writing
from s2l_ray.machine.places import existing_output
from s2l_ray.results import StepRecord
from s2l_ray.run.manifest import MANIFEST, check_files, write_manifest
from s2l_ray.step_log import StepLog

FORMAT = 2
"""Of checkpoints; it changes when those of earlier versions cannot be read any more."""
CHECKPOINTS = "checkpoints"
TRAINER = "trainer"
STATE = "state.json"
STEPS = "steps.jsonl"
PARTIAL = ".partial"
"""Where a checkpoint is written, in its directory."""
NAME = re.compile("step-([0-9]+)(?:-branch-([1-9][0-9]*))?")
OF_STEP = re.compile(r"step-0*([0-9]+)")
"""What follows RUN: where a checkpoint is named."""


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


class CheckpointDraft:
    """A checkpoint that is being written beside its place. It takes it in `complete`, whole.

    A checkpoint that the directory already holds stays until then.

    Args:
        directory: made if it does not exist; other files in it are left alone.
        state: contents of state.json; it names the `step`.

    Raises:
        DiskError: here and in every method: the directory cannot be written to.
    """

    def __init__(self, directory: Path, state: Mapping[str, Any]) -> None:
        self.directory = directory.resolve()
        self._partial = self.directory / PARTIAL
        self._state = {"format": FORMAT, **state}
        with writing(self.directory):
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)

    @property
    def trainer(self) -> Path:
        """The directory for the trainer's own state, which the trainer makes."""
        return self._partial / TRAINER

    def add_log(self, log: StepLog) -> None:
        """Take the step log as it is now."""
        if log.path.exists():
            write_summed(self._partial / STEPS, [log.path.read_bytes()])

    def complete(self, written: Mapping[str, FileSum]) -> None:
        """Become a whole checkpoint.

        Args:
            written: files of the trainer's directory with their sums, as far as these are known; others are read.
        """
        sums = {f"{TRAINER}/{name}": found for name, found in written.items()}
        write_whole(self._partial / STATE, json.dumps(self._state, indent=2) + "\n")
        for path in self._partial.rglob("*"):
            name = path.relative_to(self._partial).as_posix()
            if path.is_file() and name not in sums:
                sums[name] = sum_of(path)
        write_manifest(self._partial, sums)
        self._take_place()

    def discard(self) -> None:
        """Remove what was written, and the directory if nothing else is in it. A checkpoint that it holds stays."""
        shutil.rmtree(self._partial, ignore_errors=True)
        with suppress(OSError):
            self.directory.rmdir()

    def _take_place(self) -> None:
        with writing(self.directory):
            (self.directory / STATE).unlink(missing_ok=True)  # first: a checkpoint that is half gone is none
            shutil.rmtree(self.directory / TRAINER, ignore_errors=True)
            for name in (TRAINER, STEPS, MANIFEST, STATE):
                if (self._partial / name).exists():
                    os.replace(self._partial / name, self.directory / name)
            self._partial.rmdir()
        with suppress(OSError):  # not every file system can
            sync_directory(self.directory)


def read_state(directory: Path) -> dict[str, Any]:
    """Read the state.json of a checkpoint. Its `step` is an integer.

    Raises:
        ConfigError: the directory is not a whole checkpoint, or one of another version.
        DataError: it is damaged.
    """
    path = directory / STATE
    if not path.exists():
        raise ConfigError(f"{directory} is not a whole checkpoint: it has no {STATE}")
    state = read_json(path, _remedy(directory))
    if not isinstance(state.get("step"), int):
        raise DataError(f"{path} is damaged (it names no step); {_remedy(directory)}")
    if state.get("format") != FORMAT:
        raise ConfigError(
            f"{directory} is a checkpoint of another version of s2l-ray (its format is {state.get('format', 1)}, and "
            f"this version reads {FORMAT}); go on with the version that wrote it, or begin anew in another run_dir"
        )
    return state


def read_checkpoint(directory: Path, learner: Mapping[str, Any], *, checked: bool = False) -> Checkpoint:
    """Read a whole checkpoint, and check that its files hold what they should and that it belongs to a learner.

    Args:
        directory: that holds the checkpoint.
        learner: the learner that is to load it, as `identity.learner_of` describes it.
        checked: whether its files have been compared with its manifest already.

    Raises:
        ConfigError: the directory is not a whole checkpoint, or is one of another learner or another version.
        DataError: it is damaged; the file is named.
    """
    state = read_state(directory)
    if not checked:
        check_files(directory)
    _check_learner(directory, state.get("learner", {}), learner)
    records = StepLog(directory / STEPS).read()
    if len(records) != state["step"]:
        raise DataError(
            f"{directory / STEPS} is damaged (it has {len(records)} of {state['step']} steps); {_remedy(directory)}"
        )
    branch, _ = place_of(directory.name) or (0, 0)
    return Checkpoint(directory, state["step"], branch, state, records)


def is_of_learner(directory: Path, learner: Mapping[str, Any]) -> bool:
    """Whether a learner can load a whole checkpoint: it is the one that the checkpoint was trained from.

    Raises:
        ConfigError, DataError: as `read_state`.
    """
    return not _of_another_learner(read_state(directory).get("learner", {}), learner)


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


def named_checkpoint(name: str, key: str = "resume") -> Path:
    """The directory of the checkpoint that a word names: itself, RUN:step-N, or the newest one of the run RUN.

    Args:
        name: the word.
        key: what it is the value of, for messages.

    Raises:
        ConfigError: it is neither a checkpoint nor a run directory that has one.
    """
    run, _, part = name.rpartition(":")
    if run and (step := OF_STEP.fullmatch(part)):
        return _of_step(existing_output(run).resolve(), int(step[1]), key)
    path = existing_output(name).resolve()
    if (path / STATE).exists():
        return path
    if checkpoints := checkpoints_in(path):
        return checkpoints[-1][1]
    raise ConfigError(
        f"{key}: {path} is neither a whole checkpoint (it has no {STATE}) nor the directory of a run that has one"
    )


def _of_step(run: Path, step: int, key: str) -> Path:
    found = dict(checkpoints_in(run))  # of several of a step, the newest
    if step not in found:
        has = ", ".join(f"{run}:step-{number}" for number in found) or "none"
        raise ConfigError(f"{key}: {run} has no whole checkpoint of step {step}; it has {has}")
    return found[step]


def _check_learner(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if differ := _of_another_learner(before, now):
        raise ConfigError(
            f"{directory} is a checkpoint of another learner ({'; '.join(differ)}); give the run the learner that it "
            "was trained from"
        )


def _of_another_learner(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two learners, one line each; none where they are the same."""
    return [f"{key} was {before[key]}, now {now.get(key)}" for key in before if before[key] != now.get(key)]


def _remedy(directory: Path) -> str:
    return f"remove {directory}: the run then resumes from the checkpoint before it, or begins anew"
