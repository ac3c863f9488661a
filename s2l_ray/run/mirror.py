"""The copy of a run directory in an object store: what is there, and copying to it and back. Nothing here waits.

    MIRROR/NAME/checkpoints/step-000020/  a checkpoint as it is in the run directory
    MIRROR/NAME/...                       the other files of the run directory, under their own names

NAME is that of the run directory. Of a checkpoint state.json is written last and removed first, so that one without it
is not a checkpoint, whatever is interrupted when.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import Any, TypeVar

from s2l_ray.errors import DataError, StorageError
from s2l_ray.machine.bounded import bounded
from s2l_ray.machine.checksums import sum_of
from s2l_ray.machine.disk import write_whole, writing
from s2l_ray.machine.places import output_path
from s2l_ray.machine.storage import Storage
from s2l_ray.run.checkpoints import CHECKPOINTS, STATE, place_of
from s2l_ray.run.manifest import MANIFEST, sums_in

SUMMARY = "summary.json"
KEY = "checkpoint.mirror"
ANSWER_S = 90.0
"""Longest time without any progress of what a run waits for, in seconds."""
FETCHED = ".state.json.fetched"
"""Where a checkpoint's state.json is until all of its files are there."""
T = TypeVar("T")


class DamagedCopyError(StorageError):
    """A file in a mirror is not what was copied there."""


class Mirror:
    """The files of one run in an object store.

    Args:
        url: checkpoint.mirror.
        name: of the run directory.

    Raises:
        StorageError: here and in every method, if the store refuses; with its reason.
    """

    def __init__(self, url: str, name: str) -> None:
        self._storage = Storage(url if "://" in url else str(output_path(url)), KEY)
        self._name = name

    def __str__(self) -> str:
        return f"{self._storage}/{self._name}"

    # ---- what is there ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Make sure that files can be written, read and removed."""
        path, text = self._at(f".check-{uuid.uuid4().hex}"), b"written by s2l-ray to see whether it can\n"
        self._storage.put(path, text)
        if self._storage.read(path) != text:
            raise StorageError(f"{KEY}: {self}: what was written is not what is read")
        self._storage.remove(path)

    def is_finished(self) -> bool:
        """Whether it holds a run that got to its end."""
        return self._storage.exists(self._at(SUMMARY))

    def read_json(self, name: str) -> dict[str, Any]:
        """A file that holds a JSON object; {} if it is not there."""
        return self._json(name) if self._storage.exists(self._at(name)) else {}

    def checkpoints(self) -> list[str]:
        """The names of the whole checkpoints, oldest first."""
        return [name for name, files in self._checkpoints() if STATE in files]

    def state_of(self, name: str) -> dict[str, Any]:
        """The state.json of a whole checkpoint."""
        return self._json(f"{CHECKPOINTS}/{name}/{STATE}")

    # ---- to the store -----------------------------------------------------------------------------------------------

    def upload_checkpoint(self, directory: Path, go_on: Callable[[], None], done: set[str]) -> None:
        """Copy a whole checkpoint.

        Args:
            directory: that holds it.
            go_on: called for every part; what it raises ends the copy.
            done: names of the files that an earlier attempt copied, which are not copied again; added to.
        """
        there = f"{CHECKPOINTS}/{directory.name}"
        self._storage.remove(self._at(f"{there}/{STATE}"))
        sizes = {name: path.stat().st_size for name, path in _files(directory) if name != STATE}
        for name in sorted(sizes.keys() - done):
            self._storage.upload(directory / name, self._at(f"{there}/{name}"), go_on)
            done.add(name)
        found = self._storage.tree(self._at(there))
        if wrong := sorted(name for name, size in sizes.items() if found.get(name) != size):
            done.difference_update(wrong)
            raise StorageError(f"{KEY}: {self}/{there}/{wrong[0]} is not whole after it was written")
        self._storage.put(self._at(f"{there}/{STATE}"), (directory / STATE).read_bytes())

    def prune(self, keep: int, stay: Set[str] = frozenset()) -> None:
        """Remove all checkpoints but the newest, and what interrupted copies left before these.

        Args:
            keep: how many whole ones stay.
            stay: names of further ones that stay.
        """
        newest = self.checkpoints()[-keep:]
        names = [name for name, _ in self._checkpoints()]
        for name in names[: names.index(newest[-1])] if newest else []:
            if name not in newest and name not in stay:
                path = self._at(f"{CHECKPOINTS}/{name}")
                self._storage.remove(f"{path}/{STATE}")
                self._storage.remove_tree(path)

    def upload(self, directory: Path, names: Iterable[str], go_on: Callable[[], None]) -> None:
        """Copy files of the run directory, in this order."""
        for name in names:
            self._storage.upload(directory / name, self._at(name), go_on)

    # ---- back -------------------------------------------------------------------------------------------------------

    def download(self, names: Iterable[str], directory: Path, go_on: Callable[[], None]) -> None:
        """Copy those of these files that are there into the run directory, each whole or not at all."""
        for name in names:
            if self._storage.exists(self._at(name)):
                text = self._storage.read(self._at(name)).decode("utf-8", "surrogateescape")
                go_on()
                write_whole(directory / name, text)

    def download_checkpoint(self, name: str, directory: Path, go_on: Callable[[], None]) -> None:
        """Copy a whole checkpoint, by its name, into `directory`: whole once this returns, else without its state.json.

        Raises:
            DamagedCopyError: a file of it is not what its manifest says.
            DiskError: it cannot be written here.
        """
        there = f"{CHECKPOINTS}/{name}"
        manifest = self._json(f"{there}/{MANIFEST}")
        try:
            sums = sums_in(manifest, f"{KEY}: {self}/{there}/{MANIFEST}")
        except DataError as error:
            raise DamagedCopyError(str(error).partition("; ")[0]) from None
        for file, wanted in sums.items():
            part = directory / (file if file != STATE else FETCHED)
            self._storage.download(self._at(f"{there}/{file}"), part, go_on)
            found = sum_of(part, go_on)
            if found != wanted:
                what = f"{found.bytes} of {wanted.bytes} bytes" if found.bytes != wanted.bytes else "another SHA-256"
                raise DamagedCopyError(f"{KEY}: {self}/{there}/{file} is damaged: it has {what}")
        write_whole(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        with writing(directory):
            os.replace(directory / FETCHED, directory / STATE)

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _checkpoints(self) -> list[tuple[str, set[str]]]:
        """(name, names of its files) of every checkpoint, whole or not, oldest first."""
        found: dict[str, set[str]] = {}
        for path in self._storage.tree(self._at(CHECKPOINTS)):
            folder, _, name = path.partition("/")
            if place_of(folder) is not None:
                found.setdefault(folder, set()).add(name)
        return sorted(found.items(), key=lambda item: place_of(item[0]) or (0, 0))

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._storage.read(self._at(name)))
        except (ValueError, RecursionError) as error:
            raise DamagedCopyError(f"{KEY}: {self}/{name} is damaged ({error}); remove it") from None
        if not isinstance(value, dict):
            raise DamagedCopyError(f"{KEY}: {self}/{name} is damaged (it is not a JSON object); remove it")
        return value

    def _at(self, name: str) -> str:
        return f"{self._name}/{name}"


def reports_in(run: Path) -> list[str]:
    """The files of a run directory other than checkpoints, in the order in which they are copied: summary.json last."""
    names = [name for name, _ in _files(run) if not name.startswith((".", f"{CHECKPOINTS}/")) and "/." not in name]
    return sorted(names, key=lambda name: (name == SUMMARY, name))


def _files(directory: Path) -> list[tuple[str, Path]]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return [(path.relative_to(directory).as_posix(), path) for path in paths]


def answered(url: str, work: Callable[[Callable[[], None]], T]) -> T:
    """Do some work with a store, within bounds: see `bounded`.

    Raises:
        StorageError: nothing came back for too long. What the work raises is raised here.
    """
    try:
        return bounded(work, ANSWER_S)
    except TimeoutError:
        raise StorageError(
            f"{KEY}: {url.partition('?')[0]}: no answer within {ANSWER_S:.0f} s; is it reachable from here?"
        ) from None
