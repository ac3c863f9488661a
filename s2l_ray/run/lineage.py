"""`lineage.jsonl`: the branches of a trial's history, one line each. A run that is no trial of Ray Tune has none.

A trial's history is one line of steps until population-based training gives it another trial's weights, or other
settings: a new branch begins there. Its checkpoints bear its number, so that two of one step, from two branches, are
two directories. Branch 0 begins at the first step and has no line.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.machine.disk import write_whole

LINEAGE = "lineage.jsonl"


@dataclass(frozen=True)
class Donor:
    """Whose state a branch began with."""

    run: str
    """Id of the run, as in its run.json."""
    directory: str
    """Its run directory."""
    checkpoint: str
    """Name of its checkpoint there; empty where the branch began at the first step."""


@dataclass(frozen=True)
class Branch:
    """How a branch of a trial's history began."""

    number: int
    """1 for the first line of the file."""
    step: int
    """The last step that is the donor's."""
    donor: Donor
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Dotted key -> the value that the donor's state was trained with, the value from here on."""
    time: str = ""
    """When it began, ISO 8601 with time zone."""

    def describe(self) -> str:
        """In one line, such as "step 20 of study_00003; trainer.learning_rate 0.0001 -> 0.00012"."""
        changes = [f"{key} {before} -> {now}" for key, (before, now) in self.changed.items()]
        return "; ".join([f"step {self.step} of {Path(self.donor.directory).name}", *changes])


class Lineage:
    """The file of one run directory."""

    def __init__(self, run: Path) -> None:
        self.path = run / LINEAGE

    def read(self) -> list[Branch]:
        """The branches after branch 0, in their order.

        Raises:
            DataError: a line is not a branch.
        """
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            try:
                found.append(_branch(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise DataError(f"{self.path}, line {number}: not a branch; restore the file, or remove it") from None
        return found

    def next(self, step: int, donor: Donor, changed: Mapping[str, tuple[Any, Any]], used: int) -> Branch:
        """The branch that begins now.

        It is the last one, if that began alike and has no checkpoint: the trial was interrupted before its first one,
        and Tune has it begin again.

        Args:
            step: the last step that is the donor's.
            donor: whose state it begins with.
            changed: what has another value from here on.
            used: the largest number of a branch that has a checkpoint.

        Raises:
            DataError: the file is damaged.
        """
        before = self.read()
        last = before[-1] if before else None
        if last and last.number > used and (last.step, last.donor, last.changed) == (step, donor, dict(changed)):
            return last
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        return Branch(1 + max(used, last.number if last else 0), step, donor, dict(changed), now)

    def add(self, branch: Branch) -> None:
        """Write down a branch, at the end.

        Raises:
            DiskError: it cannot be written.
            DataError: the file is damaged.
        """
        write_whole(self.path, "".join(json.dumps(asdict(row)) + "\n" for row in [*self.read(), branch]))


def _branch(row: dict[str, Any]) -> Branch:
    changed = {str(key): (before, now) for key, (before, now) in row["changed"].items()}
    return Branch(int(row["number"]), int(row["step"]), Donor(**row["donor"]), changed, str(row["time"]))
