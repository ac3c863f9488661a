"""The results of an evaluation: `evaluation.json`, whose schema is docs/reference/evaluation-json.md.

Every interval is a bootstrap over problems at one confidence level; p-values are of sign-flip tests over problems and
are corrected by Holm's method over the pairs of models, for each benchmark and each k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from s2l_ray.benchmark.contamination import Contamination
from s2l_ray.benchmark.problems import Benchmark
from s2l_ray.benchmark.samples import Outcomes
from s2l_ray.statistics import (
    crossover_of,
    holm,
    maj_at_every_k,
    mean_interval,
    paired_difference,
    pass_at_every_k,
    sign_flip_p_value,
)
from s2l_ray.version import VERSION

FORMAT = 1
MOST_VOTES = 512
"""Samples up to which majorities are counted; the time for a problem grows with their square or faster."""


@dataclass(frozen=True)
class Report:
    """How results are computed."""

    ks: Sequence[int]
    """The k's of tables and comparisons; 1 and n are among them."""
    confidence: float
    seed: int


def results(
    benchmarks: Sequence[Benchmark],
    outcomes: Sequence[Outcomes],
    report: Report,
    contamination: Mapping[str, Sequence[Contamination]],
) -> dict[str, Any]:
    """The content of evaluation.json, without settings.

    Args:
        benchmarks: in the order in which they are shown.
        outcomes: of every model on every benchmark, models in one order.
        report: how.
        contamination: by benchmark, one for each training file.
    """
    by_benchmark = {one.name: [o for o in outcomes if o.evaluation.benchmark == one.name] for one in benchmarks}
    return {
        "format": FORMAT,
        "s2l_ray": VERSION,
        "confidence": report.confidence,
        "seed": report.seed,
        "k": list(report.ks),
        "benchmarks": [_benchmark(one, contamination.get(one.name, ())) for one in benchmarks],
        "results": [_result(one, report) for of in by_benchmark.values() for one in of],
        "pairs": [pair for of in by_benchmark.values() for pair in _pairs(of, report)],
    }


def _benchmark(benchmark: Benchmark, contamination: Sequence[Contamination]) -> dict[str, Any]:
    return {
        "name": benchmark.name,
        "path": benchmark.path,
        "kind": benchmark.kind,
        "problems": len(benchmark.problems),
        "digest": benchmark.digest,
        "contamination": [
            {**asdict(one), "exact": one.exact, "close": one.close, "found": [asdict(found) for found in one.found]}
            for one in contamination
        ],
    }


def _result(outcomes: Outcomes, report: Report) -> dict[str, Any]:
    """One model on one benchmark."""
    n, tokens = outcomes.samples, outcomes.tokens.astype(np.float64)
    per_problem = tokens.mean(axis=1)[:, None]
    return {
        "model": outcomes.evaluation.model,
        "source": outcomes.evaluation.source,
        "benchmark": outcomes.evaluation.benchmark,
        "recording": outcomes.evaluation.recording,
        "problems": len(outcomes.problem_ids),
        "samples": n,
        "pass_at": _by_k(pass_at_every_k(n, outcomes.correct), report),
        "maj_at": _majority(outcomes, report),
        "mean_at": {str(n): float(outcomes.right.mean())},
        "response_tokens": asdict(mean_interval(per_problem, report.confidence, report.seed)[0]),
        "truncated": float(outcomes.truncated.mean()),
        "statuses": outcomes.statuses,
        "correct": dict(zip(outcomes.problem_ids, outcomes.correct.tolist(), strict=True)),
    }


def _majority(outcomes: Outcomes, report: Report) -> dict[str, Any] | None:
    n = outcomes.samples
    if outcomes.wrong is None or n > MOST_VOTES:
        return None
    values = [maj_at_every_k(n, int(c), wrong) for c, wrong in zip(outcomes.correct, outcomes.wrong, strict=True)]
    return _by_k(np.stack(values), report)


def _by_k(values: np.ndarray, report: Report) -> dict[str, dict[str, float]]:
    """Mean over problems and interval of each column of `values` [problems, n], by k."""
    estimates = mean_interval(values, report.confidence, report.seed)
    return {str(k): asdict(estimate) for k, estimate in enumerate(estimates, 1)}


def _pairs(outcomes: Sequence[Outcomes], report: Report) -> list[dict[str, Any]]:
    """Every two models on one benchmark: second minus first."""
    curves = [pass_at_every_k(one.samples, one.correct) for one in outcomes]
    pairs = list(combinations(range(len(outcomes)), 2))
    columns = [k - 1 for k in report.ks]
    p_values = {
        pair: [sign_flip_p_value(curves[pair[1]][:, at] - curves[pair[0]][:, at], report.seed) for at in columns]
        for pair in pairs
    }
    corrected = {at: holm([p_values[pair][at] for pair in pairs]) for at in range(len(columns))}
    return [
        {
            "benchmark": outcomes[first].evaluation.benchmark,
            "first": outcomes[first].evaluation.model,
            "second": outcomes[second].evaluation.model,
            "difference": {
                str(k): {**asdict(estimate), "p": p_values[first, second][at], "p_holm": corrected[at][number]}
                for at, (k, estimate) in enumerate(
                    zip(report.ks, _differences(curves[first], curves[second], columns, report), strict=True)
                )
            },
            "crossover": _crossover(outcomes, curves, first, second, report),
        }
        for number, (first, second) in enumerate(pairs)
    ]


def _differences(first: np.ndarray, second: np.ndarray, columns: list[int], report: Report) -> Any:
    return paired_difference(first[:, columns], second[:, columns], report.confidence, report.seed)


def _crossover(
    outcomes: Sequence[Outcomes], curves: Sequence[np.ndarray], first: int, second: int, report: Report
) -> dict[str, Any] | None:
    """Where the model with the lower pass@1 overtakes the other; None if both have the same pass@1, or n is 1."""
    means = [curves[one][:, 0].mean() for one in (first, second)]
    if means[0] == means[1] or curves[first].shape[1] == 1:
        return None
    leader, challenger = (first, second) if means[0] > means[1] else (second, first)
    found = crossover_of(curves[leader], curves[challenger], report.confidence, report.seed)
    names = {"leader": outcomes[leader].evaluation.model, "challenger": outcomes[challenger].evaluation.model}
    return names | asdict(found)
