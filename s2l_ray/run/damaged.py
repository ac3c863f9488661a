"""Checkpoints of a run whose files do not hold any more what was written: the run goes on from the one before them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from s2l_ray.errors import DataError
from s2l_ray.machine.disk import writing
from s2l_ray.run.checkpoints import read_state
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.manifest import check_files

ASIDE = "damaged-"
"""What the name of a directory begins with in which a damaged checkpoint is kept."""


@contextmanager
def damaged_aside(run: RunDirectory, say: Callable[[str], None], note: Callable[[str], None]) -> Iterator[None]:
    """Set the run's newest checkpoints aside as long as they are damaged, and say so. The newest whole one then counts.

    The block may fetch others. If there is still no whole one when it ends, everything is as it was: nobody wants days
    of training begun anew for a file that a backup may have.

    Args:
        run: locked. It hears which checkpoint was found whole, so that nobody reads all of it again.
        say: told what is under way: to read a large checkpoint takes minutes.
        note: told of each that was set aside.

    Raises:
        ConfigError: one is of another version of s2l-ray.
        DataError: all are damaged. The newest one's damaged file is named.
    """
    moved: list[tuple[Path, Path, DataError]] = []
    for _, directory in reversed(run.checkpoints):
        say(f"checking {directory.name}")
        try:
            read_state(directory)
            check_files(directory)
        except DataError as error:
            moved.append((directory, _set_aside(directory), error))
        else:
            run.found_whole = directory
            break
    yield
    if moved and not run.checkpoints:
        for directory, aside, _ in moved:
            with writing(directory):
                os.replace(aside, directory)
        raise DataError(f"no checkpoint of {run.path} is whole. {moved[0][2]}")
    for directory, aside, problem in moved:
        reason = str(problem).partition("; ")[0]
        note(f"{directory.name} is not resumed from, since {reason}; it is kept as {aside.name}, which can be removed")


def _set_aside(directory: Path) -> Path:
    number, aside = 1, directory.with_name(f"{ASIDE}{directory.name}")
    while aside.exists():
        number, aside = number + 1, directory.with_name(f"{ASIDE}{directory.name}-{number + 1}")
    with writing(directory):
        os.replace(directory, aside)
    return aside
