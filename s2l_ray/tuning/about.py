"""What a study is: what everything that shows, tracks or reports it has to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2l_ray.kinds import MetricMode


@dataclass(frozen=True)
class StudyAbout:
    """A study. It does not change while its trials run."""

    name: str
    keys: tuple[str, ...]
    """Dotted keys that the search space varies."""
    trials: int
    """How many trials there will be."""
    steps: int
    """The most steps that a trial does (schedule.steps)."""
    directory: Path
    """On this machine: where tune.json, best.yaml and the figure go. Where the study's storage is an object store, the
    files are uploaded from there."""
    place: str
    """What the user is told: the directory, or the URL of the storage."""
    metric: str = "eval/learner/pass_at_1"
    mode: MetricMode = "max"
    at_once: int = 1
    """How many trials run at the same time."""
    search: str = "random"
    """How the values are chosen: grid, random or optuna."""
    scheduler: str = "none"
    """none, asha or pbt."""
    rungs: tuple[int, ...] = ()
    """Steps at which asha compares trials, ascending, all below `steps`."""
    reduction: float = 1.0
    """asha lets about one of so many trials pass a rung."""
    seed: int = 0
    confidence: float = 0.95
    """Level of the intervals of pass@k (evaluation.confidence)."""
    study: Mapping[str, Any] = field(default_factory=dict)
    """The study file, resolved: JSON values."""
    config: str = ""
    """The configuration that the study varies: a name or a path, as given."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What people call each trial, by its name: shown in place of its number and values. Empty: those are shown."""

    @property
    def is_pass_at_k(self) -> bool:
        """Whether the metric is the learner's held-out pass@k, which has an interval."""
        return self.metric.startswith("eval/learner/pass_at_")

    def better(self, one: float, other: float) -> bool:
        """Whether a value of the metric is better than another."""
        return one > other if self.mode == "max" else one < other


def asha_rungs(grace: int, reduction: float, steps: int) -> tuple[int, ...]:
    """The steps at which asha compares trials: grace, grace * reduction, ... below `steps`.

    At the last step there is nothing left to save, so that it is no rung.
    """
    rungs, rung = [], float(grace)
    while rung < steps:
        rungs.append(int(rung))
        rung *= reduction
    return tuple(rungs)
