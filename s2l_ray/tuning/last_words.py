"""What is said when a start of a study ends."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from s2l_ray.display.text import with_short_paths
from s2l_ray.tuning.place import StudyPlace


def last_words(place: StudyPlace, problems: Sequence[str | None], *, over: bool) -> list[str]:
    """The lines to print.

    Args:
        place: of the study.
        problems: what could not be delivered to a store or to MLflow.
        over: whether all trials are; if not, the last line is the command that goes on.
    """
    notes = [f"note: {with_short_paths(problem)}" for problem in problems if problem]
    if over:
        return notes
    return [*notes, f"what the study has done is kept; go on with\n  {resume_command(place)}"]


def resume_command(place: StudyPlace) -> str:
    """The command that goes on with a study, from the working directory."""
    return shlex.join(["s2l", "tune", "--resume", with_short_paths(place.storage.url)])
