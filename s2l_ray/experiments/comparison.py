"""Arms compared: means over seeds, differences from the baseline paired by seed, p-values, and what each arm cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from s2l_ray.compute import Compute, total
from s2l_ray.experiments.experiment_file import COMMON, ExperimentFile
from s2l_ray.experiments.measured import MeasuredRun
from s2l_ray.statistics import holm, paired_t_p_value, sign_flip_p_value, t_interval

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """How an arm differs from the baseline: this arm less the baseline, over the seeds that both have."""

    by_seed: Mapping[int, float]
    mean: float
    interval: Interval | None
    """Student's t over seeds; None with fewer than two."""
    p_t: float | None
    """Two-sided p-value of the paired t test; None likewise, and of metrics that are not tested."""
    p_sign: float | None
    """Two-sided p-value of flipping the signs of the differences; of n seeds it is 2 / 2^n at least."""
    holm_t: float | None = None
    """p_t corrected for the number of arms (Holm)."""
    holm_sign: float | None = None
    """p_sign likewise."""


@dataclass(frozen=True)
class Mean:
    """A metric of one arm."""

    by_seed: Mapping[int, float]
    """Of the runs that finished and got to where arms are compared."""
    mean: float | None
    interval: Interval | None
    """Student's t over seeds."""
    difference: Difference | None
    """None of the baseline, and where no seed is common."""


@dataclass(frozen=True)
class Arm:
    """One arm of an experiment."""

    name: str
    runs: tuple[MeasuredRun, ...]
    """Those that finished."""
    metrics: Mapping[str, Mean]
    """By name; the first is the one that is tested."""

    @property
    def compute(self) -> Compute | None:
        """FLOPs and tokens of all of its runs that finished; None if they are not known of one."""
        return total(run.spent.compute if run.spent else None for run in self.runs)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training of all of its runs that finished."""
        return sum(run.spent.seconds for run in self.runs if run.spent)


@dataclass(frozen=True)
class Comparison:
    """What an experiment found."""

    file: ExperimentFile
    confidence: float
    """Of the intervals."""
    runs: tuple[MeasuredRun, ...]
    """All of them."""
    arms: tuple[Arm, ...]
    """In the order of the file."""
    place: float | None
    """Where on `at.axis` the arms are compared; None: at the end of each run."""

    @property
    def unfinished(self) -> list[MeasuredRun]:
        """Runs that are not in the comparison."""
        return [run for run in self.runs if run.status != "finished"]

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return self.file.baseline_arm


def compared(file: ExperimentFile, runs: Sequence[MeasuredRun], confidence: float) -> Comparison:
    """Compare the arms.

    Args:
        file: of the experiment.
        runs: all of its runs; those that did not finish are left out.
        confidence: of the intervals, in (0, 1).
    """
    finished = {arm: tuple(r for r in runs if r.run.arm == arm and r.points) for arm in file.arms}
    ends = [run.end(file.at_axis) for of_arm in finished.values() for run in of_arm]
    common = math.nan if any(map(math.isnan, ends)) else min(ends, default=0.0)  # not known of one: of none
    metrics = (file.metric, *(metric for metric in file.also if metric != file.metric))
    found: dict[str, dict[str, Mean]] = {arm: {} for arm in file.arms}
    for metric in metrics:
        values = {
            arm: {run.run.seed: v for run in of_arm if (v := run.value(metric, file.at, common)) is not None}
            for arm, of_arm in finished.items()
        }
        for arm, mean in _means(file.baseline_arm, values, confidence, tested=metric == file.metric).items():
            found[arm][metric] = mean
    place = None if file.at is None else common if file.at.value == COMMON else float(file.at.value)
    arms = tuple(Arm(name, finished[name], found[name]) for name in file.arms)
    return Comparison(file, confidence, tuple(runs), arms, place)


def _means(
    baseline: str, values: Mapping[str, Mapping[int, float]], confidence: float, *, tested: bool
) -> dict[str, Mean]:
    """One metric of every arm."""
    means = {}
    for arm, by_seed in values.items():
        numbers = list(by_seed.values())
        mean = statistics.fmean(numbers) if numbers else None
        difference = None if arm == baseline else _difference(by_seed, values[baseline], confidence, tested=tested)
        means[arm] = Mean(by_seed, mean, t_interval(numbers, confidence), difference)
    return _corrected(means)


def _difference(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float, *, tested: bool
) -> Difference | None:
    by_seed = {seed: value - baseline[seed] for seed, value in values.items() if seed in baseline}
    if not by_seed:
        return None
    gaps = list(by_seed.values())
    is_tested = tested and len(gaps) > 1
    return Difference(
        by_seed,
        statistics.fmean(gaps),
        t_interval(gaps, confidence),
        paired_t_p_value(gaps) if is_tested else None,
        sign_flip_p_value(gaps, seed=0) if is_tested else None,
    )


def _corrected(means: dict[str, Mean]) -> dict[str, Mean]:
    """The same with p-values corrected for how many there are."""
    tests = {arm: d for arm, mean in means.items() if (d := mean.difference) and d.p_t is not None}
    by_t = dict(zip(tests, holm([d.p_t or 0.0 for d in tests.values()]), strict=True))
    by_sign = dict(zip(tests, holm([d.p_sign or 0.0 for d in tests.values()]), strict=True))
    corrected = {arm: replace(d, holm_t=by_t[arm], holm_sign=by_sign[arm]) for arm, d in tests.items()}
    return {arm: replace(mean, difference=corrected.get(arm, mean.difference)) for arm, mean in means.items()}
