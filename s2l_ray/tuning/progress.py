"""How much of a study is left, and how long that will take at the pace so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import TrialOutcome


@dataclass(frozen=True)
class StepsLeft:
    """Steps that trials have still to do."""

    expected: float
    """Where asha prunes: if every trial passes each coming rung with chance 1 / reduction. Else the same as `most`."""
    most: int
    """If nothing more is pruned."""


def steps_left(about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> StepsLeft:
    """The steps that are left of a study, those of trials that Tune has not made yet included."""
    left = [_of_trial(about, outcome.step, outcome.steps) for outcome in outcomes if not outcome.is_over]
    to_come = max(0, about.trials - len(outcomes))
    new = _of_trial(about, 0, about.steps)
    return StepsLeft(
        sum(one.expected for one in left) + to_come * new.expected, sum(one.most for one in left) + to_come * new.most
    )


def _of_trial(about: StudyAbout, step: int, steps: int) -> StepsLeft:
    expected, chance, at = 0.0, 1.0, step
    for rung in (rung for rung in about.rungs if step < rung < steps):
        expected += chance * (rung - at)
        chance, at = chance / about.reduction, rung
    return StepsLeft(expected + chance * (steps - at), steps - step)


@dataclass
class Pace:
    """How fast a study goes in this process: steps of all trials per second, starts and evaluations included."""

    began: float
    """When, by some clock, in seconds."""
    steps: int = 0
    """Done since then."""

    def seconds_for(self, steps: float, now: float) -> float | None:
        """How long `steps` will take; None before the first one is done."""
        return steps * (now - self.began) / self.steps if self.steps else None

    def eta(self, about: StudyAbout, outcomes: Sequence[TrialOutcome], now: float) -> tuple[float, float] | None:
        """Seconds until the study is done: those to be expected, and the most; None before the first step.

        The pace is that of as many trials at once as there were so far: the last trials, which run with free slices
        beside them, take longer.
        """
        left = steps_left(about, outcomes)
        expected, most = self.seconds_for(left.expected, now), self.seconds_for(left.most, now)
        return None if expected is None or most is None else (expected, most)
