"""What Tune keeps of a trial's checkpoint: a file that says where the run's own is, and what Tune does with it.

The weights stay in the run directory, and in its mirror if there is one; Tune only copies the file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from s2l_ray.errors import ConfigError, DataError, S2LError
from s2l_ray.machine.disk import read_json, write_whole
from s2l_ray.machine.places import output_path
from s2l_ray.machine.storage import Storage
from s2l_ray.ray_bridge import TrialStorage
from s2l_ray.run.checkpoints import CHECKPOINTS, STATE, place_of
from s2l_ray.run.directory import DONATED
from s2l_ray.run.earlier import MEMORY
from s2l_ray.run.lineage import Donor, Lineage
from s2l_ray.run.mirror import Mirror, answered
from s2l_ray.run.training_run import TrainingRun
from s2l_ray.run.trial_terms import TrialTerms
from s2l_ray.trials.changeable import unchangeable
from s2l_ray.trials.storage import storage_url

POINTER = "pointer.json"
TUNES_NAMES = re.compile("checkpoint_[0-9]+")
"""Tune's directories in that of a trial, each with a pointer."""


@dataclass(frozen=True)
class Pointer:
    """Where a checkpoint of a run is."""

    run: str
    """Id of the run, as in its run.json."""
    directory: str
    """Its run directory, absolute, on whatever machine it was."""
    mirror: str | None
    """Its checkpoint.mirror, in which the directory with the run directory's name is the run's."""
    checkpoint: str
    """Name of the checkpoint in both."""

    @classmethod
    def to(cls, run: TrainingRun) -> Pointer:
        """Make sure that the checkpoint of a run's last step is whole, and in its mirror if it has one; point to it.

        Raises:
            DiskError: it cannot be written.
            StorageError: it is not in the mirror within checkpoint.mirror_timeout_s. It is in the run directory.
        """
        own, mirror = run.state.checkpoint(), run.settings.checkpoint.mirror
        if mirror and "://" not in mirror:
            mirror = str(output_path(mirror))
        return cls(run.state.id, str(run.settings.run_path), mirror, own.name)

    @classmethod
    def read(cls, directory: Path) -> Pointer | None:
        """The pointer in a directory of Tune's; None if it has none.

        Raises:
            DataError: it is damaged.
        """
        path = directory / POINTER
        return cls._of(read_json(path, "remove the directory"), path) if path.exists() else None

    @classmethod
    def _of(cls, values: dict[str, Any], where: object) -> Pointer:
        try:
            found = cls(**values)
        except TypeError:
            raise DataError(f"{where} is no pointer of this version of s2l-ray") from None
        if place_of(found.checkpoint) is None:
            raise DataError(f"{where} is damaged: {found.checkpoint!r:.80} is no name of a checkpoint")
        return found

    def write(self, directory: Path) -> None:
        """Write it into a directory, which Tune then copies to its storage."""
        write_whole(directory / POINTER, json.dumps(asdict(self), indent=2) + "\n")

    @property
    def place(self) -> tuple[int, int]:
        """(branch, step) of the checkpoint."""
        return cast("tuple[int, int]", place_of(self.checkpoint))


def follow(pointer: Pointer, run: TrainingRun) -> None:
    """Give a run the state that a pointer points to, unless the run is there already, or further.

    When it is set up, a run resumes from its own newest checkpoint, which is as new as any that Tune knows. The state
    of another run, or one that was trained with other settings, begins a new branch of this run's history. Until the
    run next reports a checkpoint to Tune, the donor's is what Tune gives it after a failure: then it has that branch.

    Raises:
        ConfigError: the checkpoint is not to be found; or it is one of another learner.
        DataError: it, or lineage.jsonl, is damaged.
        StorageError: its mirror cannot be read.
    """
    own, path = pointer.run == run.state.id, run.settings.run_path
    if pointer.place <= run.state.place if own else _has_begun_with(pointer, run):
        return
    into = path / CHECKPOINTS / pointer.checkpoint if own else path / DONATED
    try:
        run.state.take_over(_found(pointer, path, into), Donor(pointer.run, pointer.directory, pointer.checkpoint))
    finally:
        if not own:
            shutil.rmtree(into, ignore_errors=True)


def _has_begun_with(pointer: Pointer, run: TrainingRun) -> bool:
    """Whether the run's state is of its newest branch, and that began with this checkpoint of another run."""
    branches = Lineage(run.settings.run_path).read()
    if not branches or branches[-1].number != run.state.place[0]:
        return False
    return (branches[-1].donor.run, branches[-1].donor.checkpoint) == (pointer.run, pointer.checkpoint)


def pointed(trial: Storage) -> set[str]:
    """The names of the checkpoints that the pointers in a trial's directory of Tune's storage point to.

    Raises:
        StorageError: it cannot be read.
    """
    names = set()
    for directory in trial.directories():
        if TUNES_NAMES.fullmatch(directory) and trial.exists(path := f"{directory}/{POINTER}"):
            with suppress(ValueError, KeyError, TypeError):  # Tune has not copied all of it yet
                names.add(str(json.loads(trial.read(path))["checkpoint"]))
    return names


def terms_of(storage: TrialStorage) -> TrialTerms:
    """What holds for the run of a trial: settings that Tune may change, checkpoints that Tune may ask for."""
    url = storage_url(storage.storage_filesystem, storage.trial_fs_path)
    return TrialTerms(unchangeable, lambda: answered(url, lambda go_on: pointed(Storage(url, "storage_path"))))


def _found(pointer: Pointer, run: Path, into: Path) -> Path:
    """The directory of a pointer's checkpoint: where it says, or beside the run directory, or fetched into `into`."""
    name = Path(pointer.directory).name
    for directory in (Path(pointer.directory), run.parent / name, run):
        checkpoint = directory / CHECKPOINTS / pointer.checkpoint
        if (checkpoint / STATE).exists() and _id(directory) == pointer.run:
            return checkpoint
    if pointer.mirror is not None and answered(pointer.mirror, lambda go_on: _fetched(pointer, name, into, go_on)):
        return into
    also = f", nor in {pointer.mirror.partition('?')[0]}" if pointer.mirror else ""
    raise ConfigError(
        f"Tune asks for {pointer.checkpoint} of {pointer.directory}, which is not there{also}. Where trials run on "
        "several machines, give Tune a storage_path that all of them reach, or set checkpoint.mirror"
    )


def _fetched(pointer: Pointer, name: str, into: Path, go_on: Callable[[], None]) -> bool:
    """Whether the mirror has the checkpoint, which is in `into` then."""
    mirror = Mirror(str(pointer.mirror), name)
    if mirror.read_json(MEMORY).get("id") != pointer.run or pointer.checkpoint not in mirror.checkpoints():
        return False
    mirror.download_checkpoint(pointer.checkpoint, into, go_on)
    return True


def _id(directory: Path) -> str | None:
    """The id of the run that a directory holds; None if that is not to be read."""
    try:
        return read_json(directory / MEMORY, "").get("id")
    except (S2LError, OSError):
        return None
