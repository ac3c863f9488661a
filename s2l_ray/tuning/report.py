"""The results of a study: `tune.json`, `best.yaml`, the figure, and the final table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType

from s2l_ray.config import Config
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import StudyFacts, TrialOutcome


def write_report(about: StudyAbout, outcomes: Sequence[TrialOutcome], facts: StudyFacts, base: Config) -> list[Path]:
    """Write tune.json, best.yaml (if a trial has a value) and figures/study.png into the study's directory.

    Args:
        about: the study.
        outcomes: of all of its trials.
        facts: what it cost.
        base: the configuration that the study varies, with the study's fixed overrides and without what only the study
            sets: placement of a slice, run directory, parent run, mode of the bank.

    Returns:
        The files that were written.

    Raises:
        DiskError: they cannot be written.
    """
    raise NotImplementedError


def final_study_table(about: StudyAbout, outcomes: Sequence[TrialOutcome], facts: StudyFacts) -> RenderableType:
    """The trials from best to worst, whether the best one's lead is more than chance, and where the files are."""
    raise NotImplementedError
