"""A study while it runs: a live table, or a line for each event."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console

from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import TrialOutcome


class StudyDisplay:
    """Shows a study. A context manager: leaving it restores the terminal, also after an error.

    Args:
        about: the study.
        console: default: standard output.
        clock: seconds, for durations.
    """

    def __init__(
        self, about: StudyAbout, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        raise NotImplementedError

    def __enter__(self) -> StudyDisplay:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    def heard(self, event: str, outcome: TrialOutcome) -> None:
        """A listener of `StudyObserver`: show the event."""
        raise NotImplementedError

    def note(self, text: str) -> None:
        """Show something else: a server does not answer, a trial goes on elsewhere."""
        raise NotImplementedError
