"""All measures of all sources, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.diversity.coherence import coherence
from s2l_ray.diversity.correlation import Deviations, autocorrelation, within_prefix, within_problem
from s2l_ray.diversity.distinct import distinct_of, ks_up_to, pair_differs
from s2l_ray.diversity.edit_distance import clusters, distances, mean_distance
from s2l_ray.diversity.gradients import GroupGradients, PromptGradients
from s2l_ray.diversity.intervals import Bootstrap, Floats, Resampled
from s2l_ray.diversity.projection import CountSketch
from s2l_ray.diversity.scores import LearnerScores, Scores
from s2l_ray.diversity.signal import signal
from s2l_ray.diversity.solutions import solution_reader
from s2l_ray.diversity.sources import SampledSource, check_matched

if TYPE_CHECKING:
    from s2l_ray.config import ObjectiveConfig
    from s2l_ray.training.model import PackedPolicy

Measures = dict[str, Resampled]
Progress = Callable[[str, int, int], None]
"""progress(stage, done, of)"""

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CELLS = 8192
"""Dimensions that gradients are projected to: a squared norm has a relative error of about sqrt(2 / CELLS), 1.6 %."""


@dataclass(frozen=True)
class MeasureSettings:
    """How samples are measured."""

    verifier: str
    """`verifier.kind`: solutions are told apart accordingly."""
    objective: ObjectiveConfig
    group_size: int
    """G of the groups whose gradients are measured."""
    temperature: float
    """The learner's, at which it is trained."""
    edit_threshold: float
    """Distance in [0, 1] that no two responses of a cluster exceed."""
    budget: int
    """Tokens of a packed row."""
    seed: int
    """Of the bootstrap and the projection."""


@dataclass(frozen=True)
class Measured:
    """What was found of one source."""

    source: SampledSource
    noise_temperature: float
    """The learner's temperature under which the source's rollouts are likeliest."""
    parts: int
    """Number of parts of the log-prob's profile."""
    measures: Measures


def measure(
    sources: list[SampledSource],
    answers: Mapping[str, str],
    policy: PackedPolicy,
    settings: MeasureSettings,
    progress: Progress,
) -> list[Measured]:
    """Measure matched sources, of which the first is the learner.

    Args:
        answers: gold answers by problem id.
        policy: the learner, at `settings.temperature`.

    Raises:
        DataError: see `check_matched`.
        ConfigError: see `PromptGradients`.
    """
    check_matched(sources)
    bootstrap = Bootstrap(len(sources[0].problems), settings.seed)
    sketch = CountSketch(CELLS, settings.seed)
    gradients = PromptGradients(policy, settings.objective, sketch, settings.budget)
    of_learner: GroupGradients | None = None
    found = []
    for source in sources:
        told = partial(_told, progress, source.name)
        measures = solutions_of(source, answers, settings.verifier, bootstrap)
        measures |= edits_of(source, settings.edit_threshold, bootstrap, told("edit distances"))
        under_learner = under_learner_of(source, policy, settings, bootstrap, told("scored by the learner"))
        of_source = gradients.of(source.problems, settings.group_size, told("gradients"))
        of_learner = of_learner or of_source
        measures |= under_learner.measures | gradient_measures(of_source, of_learner, bootstrap)
        found.append(replace(under_learner, measures=measures))
    return found


def _told(progress: Progress, source: str, what: str) -> Callable[[int, int], None]:
    return lambda done, of: progress(f"{source}: {what}", done, of)


def solutions_of(source: SampledSource, answers: Mapping[str, str], verifier: str, bootstrap: Bootstrap) -> Measures:
    """pass@k, and different solutions among k samples: all of them, and the right ones."""
    read, ks = solution_reader(verifier), ks_up_to(source.samples)
    passed, every, right, differ = [], [], [], []
    for problem in source.problems:
        solutions = [read(rollout, answers[problem.prompt_id]) for rollout in problem.rollouts]
        is_right = [rollout.judged.status == "right" for rollout in problem.rollouts]
        of_right = [solution if good else None for solution, good in zip(solutions, is_right, strict=True)]
        passed.append(distinct_of([True if good else None for good in is_right], ks))
        every.append(distinct_of(solutions, ks))
        right.append(distinct_of(of_right, ks))
        differ.append(pair_differs(of_right))
    columns = {"pass": passed, "distinct_solutions": every, "distinct_right_solutions": right}
    found = {
        f"{name}@{k}": bootstrap.mean(column)
        for name, rows in columns.items()
        for k, column in zip(ks, np.array(rows).T, strict=True)
    }
    return found | {"right_solutions_differ": bootstrap.mean(np.array(differ))}


def edits_of(
    source: SampledSource, threshold: float, bootstrap: Bootstrap, progress: Callable[[int, int], None]
) -> Measures:
    """The mean edit distance of two responses, and the clusters of k."""
    ks = ks_up_to(source.samples)
    means, counts = [], []
    for done, problem in enumerate(source.problems, 1):
        table = distances([rollout.token_ids.tolist() for rollout in problem.rollouts])
        means.append(mean_distance(table))
        counts.append(distinct_of(clusters(table, threshold), ks))
        progress(done, len(source.problems))
    by_k = zip(ks, np.array(counts).T, strict=True)
    return {"edit_distance": bootstrap.mean(np.array(means))} | {
        f"edit_clusters@{k}": bootstrap.mean(column) for k, column in by_k
    }


def under_learner_of(
    source: SampledSource,
    policy: PackedPolicy,
    settings: MeasureSettings,
    bootstrap: Bootstrap,
    progress: Callable[[int, int], None],
) -> Measured:
    """Coherence under the learner, and correlations of deviations; three forwards of every rollout."""
    scores, problems = LearnerScores(policy, settings.budget), source.problems
    logprobs = [of.logprobs for of in scores.at(problems, settings.temperature, lambda i, n: progress(i, 3 * n))]
    best = scores.best_temperature(problems, settings.temperature, lambda i, n: progress(n + i, 3 * n))
    at_best = scores.at(problems, best, lambda i, n: progress(2 * n + i, 3 * n))
    sampled = [[rollout.logprobs.astype(np.float64) for rollout in problem.rollouts] for problem in problems]
    of_coherence = coherence(logprobs, sampled, bootstrap)
    measures = {
        "logprob": of_coherence.logprob,
        "perplexity": of_coherence.perplexity,
        "divergence": of_coherence.divergence,
        **{f"logprob_part/{part}": each for part, each in enumerate(of_coherence.profile)},
    }
    return Measured(source, best, len(of_coherence.profile), measures | correlations_of(source, at_best, bootstrap))


def correlations_of(source: SampledSource, scores: Sequence[Scores], bootstrap: Bootstrap) -> Measures:
    """Correlations of deviations along responses and between them."""
    problems = [
        Deviations([rollout.token_ids.tolist() for rollout in problem.rollouts], of_problem.deviations)
        for problem, of_problem in zip(source.problems, scores, strict=True)
    ]
    longest = max(len(rollout.token_ids) for rollout in source.rollouts)
    along = autocorrelation(problems, [lag for lag in LAGS if lag < longest], bootstrap)
    return {f"autocorrelation@{lag}": each for lag, each in along.items()} | {
        "correlation_in_problem": within_problem(problems, bootstrap),
        "correlation_after_prefix": within_prefix(problems, bootstrap),
    }


def gradient_measures(of_source: GroupGradients, of_learner: GroupGradients, bootstrap: Bootstrap) -> Measures:
    """Signal and noise of the gradient; the SNR is that of the mean over all problems."""
    prompts = len(of_source.projected)
    found = signal(of_source.projected, of_learner.projected, of_source.empty, prompts, bootstrap)
    nothing: Floats = np.full(len(bootstrap.weights), np.nan)
    return {
        "gradient_squared_norm": found.squared_norm,
        "gradient_variance": found.variance,
        "gradient_variance_in_prompts": found.within or bootstrap.statistic(nothing),
        "gradient_snr": found.snr,
        "gradient_noise_scale": found.noise_scale,
        "gradient_cosine": found.cosine,
        "empty_groups": found.empty,
    }
