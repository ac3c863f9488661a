"""A reporter that keeps the notes of a run."""

from __future__ import annotations

from s2l_ray.reporter import SilentReporter


class Notes(SilentReporter):
    """Keeps what a run tells its user beside its steps."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)
