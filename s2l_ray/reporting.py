"""What a run tells whoever watches it."""

from __future__ import annotations

from s2l_ray.results import EvaluationRecord, StepRecord


class Reporter:
    """Receives what happens in a run. This one shows nothing; `display.RunDisplay` shows it on a terminal."""

    def phase(self, text: str) -> None:
        """Long work outside steps begins."""

    def turn(self, step: int, phase: str) -> None:
        """The driver turns to a phase of a step (`timing.clock.PHASES`)."""

    def step(self, record: StepRecord) -> None:
        """A step has ended."""

    def evaluation(self, record: EvaluationRecord, when: str) -> None:
        """An evaluation has ended; `when` is before, during or after training."""

    def note(self, text: str) -> None:
        """Something worth a line."""
