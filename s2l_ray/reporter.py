"""What a run tells whoever watches it."""

from __future__ import annotations

from s2l_ray.results import EvaluationRecord, StepRecord


class Reporter:
    """Receives what happens in a run. This one shows nothing; `display.RunDisplay` shows it on a terminal."""

    def phase(self, text: str) -> None:
        """Long work outside steps begins."""

    def progress(self, done: int, total: int) -> None:
        """So much is done of what is under way: of the phase, or of the turn to a phase of a step."""

    def turn(self, step: int, phase: str) -> None:
        """The driver turns to a phase of a step (`timing.clock.PHASES`)."""

    def step(self, record: StepRecord) -> None:
        """A step has ended."""

    def evaluation(self, record: EvaluationRecord, when: str) -> None:
        """An evaluation has ended; `when` is before, during or after training."""

    def note(self, text: str) -> None:
        """Something worth a line."""
