"""What a run tells whoever watches it."""

from __future__ import annotations

from typing import Protocol

from s2l_ray.results import EvaluationRecord, StepRecord


class Reporter(Protocol):
    """Receives what happens in a run. `display.RunDisplay` shows it on a terminal, `SilentReporter` nowhere."""

    def phase(self, text: str) -> None:
        """Long work outside steps begins, such as "connecting to Ray"."""

    def progress(self, done: int, total: int) -> None:
        """Part of the work under way is done: of the last `phase`, or of the last `turn`."""

    def turn(self, step: int, phase: str) -> None:
        """The driver turns to a phase (`timing.clock.PHASES`) of a step (1-based)."""

    def step(self, record: StepRecord) -> None:
        """A step has ended."""

    def evaluation(self, record: EvaluationRecord, when: str) -> None:
        """An evaluation has ended; `when` is "before", "during" or "after" (training)."""

    def note(self, text: str) -> None:
        """Something happened that the user should know: an engine was lost, a server does not answer."""


class SilentReporter(Reporter):
    """Shows nothing."""

    def phase(self, text: str) -> None:
        """Show nothing."""

    def progress(self, done: int, total: int) -> None:
        """Show nothing."""

    def turn(self, step: int, phase: str) -> None:
        """Show nothing."""

    def step(self, record: StepRecord) -> None:
        """Show nothing."""

    def evaluation(self, record: EvaluationRecord, when: str) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""
