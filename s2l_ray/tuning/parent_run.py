"""The MLflow run of a study, under which those of its trials are nested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2l_ray.config import TrackingConfig
from s2l_ray.kinds import TrackedStatus
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome


class ParentRun:
    """The MLflow run of a study. Nothing but `finish` waits for a server."""

    run_id: str | None
    """MLflow's id, for the study's state; None if nothing is tracked."""
    tracking: TrackingConfig
    """What the trials are to track with: the same store and experiment, and this run as tracking.parent_run."""

    @classmethod
    def open(cls, config: TrackingConfig, about: StudyAbout, run_id: str | None = None) -> ParentRun:
        """Start the study's run, or go on with the one that the study's state remembers.

        Raises:
            TrackingError: the store cannot be used, or does not answer in time (tracking.timeout_s).
        """
        raise NotImplementedError

    @property
    def problem(self) -> str | None:
        """Why something is not delivered, in a line; None when everything is, or is on its way."""
        raise NotImplementedError

    def heard(self, event: str, outcome: TrialOutcome) -> None:
        """A listener of `StudyObserver`: what has changed is logged."""
        raise NotImplementedError

    def finish(
        self, status: TrackedStatus, outcomes: Sequence[TrialOutcome], facts: StudyFacts, files: Sequence[Path]
    ) -> str | None:
        """Log the table, the best trial and files, and end the run; bounded. What MLflow did not take, in words."""
        raise NotImplementedError
