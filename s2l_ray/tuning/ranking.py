"""Which trial of a study is the best, and whether that is more than chance: over held-out problems, and over seeds."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from s2l_ray.statistics.over_seeds import t_interval
from s2l_ray.tuning.about import StudyAbout
from s2l_ray.tuning.outcomes import TrialOutcome

SEED = "seed"
"""The key that tells repetitions of a trial apart."""


@dataclass(frozen=True)
class SeedMean:
    """Trials that finished and differ in nothing but the seed."""

    values: Mapping[str, Any]
    """The values of the other keys that the study varies."""
    trials: tuple[TrialOutcome, ...]
    """At least two, by ascending seed."""
    mean: float
    """Of the metric."""
    interval: tuple[float, float] | None
    """Of the mean, over seeds: Student's t with one degree of freedom less than there are trials. None where seeds were
    pruned."""
    gap: float | None = 0.0
    """Mean difference from the best `SeedMean`, this one minus the best, over the seeds that both have; None where
    seeds were pruned."""
    gap_interval: tuple[float, float] | None = None
    """Of that difference, paired by seed; None for the best one, and where fewer than two seeds are common."""
    pruned: int = 0
    """Other seeds with these values, whose trials were pruned because their metric was low: without them the mean is
    too good, and is compared with none."""

    @property
    def by_seed(self) -> dict[Any, float]:
        """Seed -> the metric."""
        return {trial.values[SEED]: trial.metric for trial in self.trials if trial.metric is not None}


def ranked(about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """The trials from best to worst: those that finished, then the others with a value, then those without one.

    A trial that was pruned may have the best value of all, measured after fewer steps: it is not comparable, and its
    values were not trained to the end. So it never ranks before one that finished.
    """
    sign = -1.0 if about.mode == "max" else 1.0

    def place(outcome: TrialOutcome) -> tuple[bool, bool, float, str]:
        value = outcome.metric
        return value is None, outcome.status != "finished", sign * value if value is not None else 0.0, outcome.name

    return sorted(outcomes, key=place)


def best_of(about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> TrialOutcome | None:
    """The trial that ranks first, among those with the best mean of seeds of which none was pruned, if there is one.

    None if the metric was never measured.
    """
    best = next((mean for mean in over_seeds(about, outcomes) if not mean.pruned), None)
    first = next(iter(ranked(about, best.trials if best else outcomes)), None)
    return first if first is not None and first.metric is not None else None


def overlapping(best: TrialOutcome, outcomes: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """The other trials that finished and whose intervals have values in common with that of `best`.

    That intervals overlap does not prove that two trials are equal; that they do not shows a difference which is more
    than the choice of held-out problems explains.
    """
    if best.interval is None:
        return []
    low, high = best.interval
    others = [o for o in outcomes if o.name != best.name and o.status == "finished" and o.interval is not None]
    return [o for o in others if o.interval is not None and o.interval[0] <= high and low <= o.interval[1]]


def over_seeds(about: StudyAbout, outcomes: Sequence[TrialOutcome]) -> list[SeedMean]:
    """Means over the trials that finished and differ in the seed alone, from best to worst.

    Those with fewer seeds than others, of which a trial failed, come after these, and those of which seeds were pruned
    come last. Empty where no values have two seeds, and of population based training, whose trials take over each
    other's weights.
    """
    if SEED not in about.keys or any(outcome.exploits for outcome in outcomes):
        return []
    same: dict[str, list[TrialOutcome]] = defaultdict(list)
    for outcome in outcomes:
        same[json.dumps(_others(outcome), sort_keys=True)].append(outcome)
    found = [mean for alike in same.values() if (mean := _mean(about, alike)) is not None]
    sign = -1.0 if about.mode == "max" else 1.0
    means = sorted(found, key=lambda one: (one.pruned > 0, -len(one.trials), sign * one.mean))
    return [means[0], *(one if one.pruned else _compared(about, one, means[0]) for one in means[1:])] if means else []


def _mean(about: StudyAbout, alike: Sequence[TrialOutcome]) -> SeedMean | None:
    """The mean over the trials that finished; None where fewer than two seeds did."""
    by_seed = {trial.values[SEED]: trial for trial in alike if trial.status == "finished" and trial.metric is not None}
    if len(by_seed) < 2:
        return None
    of_each = tuple(by_seed[seed] for seed in sorted(by_seed))
    values = [trial.metric for trial in of_each if trial.metric is not None]
    pruned = len({trial.values[SEED] for trial in alike if trial.status == "pruned"} - by_seed.keys())
    mean, others = statistics.fmean(values), _others(of_each[0])
    if pruned:
        return SeedMean(others, of_each, mean, None, gap=None, pruned=pruned)
    return SeedMean(others, of_each, mean, t_interval(values, about.confidence))


def _compared(about: StudyAbout, one: SeedMean, best: SeedMean) -> SeedMean:
    common = one.by_seed.keys() & best.by_seed.keys()
    gaps = [one.by_seed[seed] - best.by_seed[seed] for seed in sorted(common)]
    if len(gaps) < 2:
        return replace(one, gap=one.mean - best.mean)
    return replace(one, gap=statistics.fmean(gaps), gap_interval=t_interval(gaps, about.confidence))


def _others(outcome: TrialOutcome) -> dict[str, Any]:
    return {key: value for key, value in outcome.values.items() if key != SEED}
