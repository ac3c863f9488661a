"""What a run directory has of held-out evaluations, whether the run got to its end or not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.evaluation.held_out import ONCE, Evaluations
from s2l_ray.machine.disk import read_json
from s2l_ray.run.checkpoints import STATE, checkpoints_in


def evaluations_in(run: Path, summary: Mapping[str, Any] | None) -> Evaluations:
    """The evaluations of a finished run; of another, those that its newest checkpoint has.

    Args:
        run: its directory.
        summary: the content of its summary.json; None: it has none.

    Raises:
        Exception: one of `machine.reading.MISREAD`: another version wrote them.
    """
    if summary is not None:
        found = summary["evaluation"]
        once = {when: found[when] for when in ONCE if found.get(when)}
        return Evaluations.from_json({"evaluations": once, "during": found["during"]})
    for _, checkpoint in reversed(checkpoints_in(run)):
        with suppress(DataError):  # resuming sets a damaged one aside, and goes on from the one before
            if "evaluations" in (state := read_json(checkpoint / STATE, "")):
                return Evaluations.from_json(state)
    return Evaluations()
