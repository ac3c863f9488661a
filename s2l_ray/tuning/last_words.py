"""What is said when a start of a study ends."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from s2l_ray.display.text import with_short_paths
from s2l_ray.tuning.place import StudyPlace


def last_words(problems: Sequence[str | None], goes_on: str | None, failed: int = 0) -> list[str]:
    """The lines to print.

    Args:
        problems: what could not be delivered to a store or to MLflow.
        goes_on: the command that goes on with the study; None if all trials are over.
        failed: how many trials that command tries again, where all others are over.
    """
    notes = [f"note: {with_short_paths(problem)}" for problem in problems if problem]
    if goes_on is None:
        return notes
    if failed:
        which = "the run that failed" if failed == 1 else f"the {failed} runs that failed"
        return [*notes, f"try {which} again with\n  {goes_on}"]
    return [*notes, f"what the study has done is kept; go on with\n  {goes_on}"]


def resume_command(place: StudyPlace) -> str:
    """The command that goes on with a study, from the working directory."""
    return shlex.join(["s2l", "tune", "--resume", with_short_paths(place.storage.url)])
