"""A second implementation of the objective: one rollout, one token and one subset at a time, on Python floats."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from s2l_ray.config import ObjectiveConfig


def advantages(
    rewards: Sequence[Sequence[float]],
    explorer: Sequence[Sequence[bool]],
    lengths: Sequence[Sequence[int]],
    goal: ObjectiveConfig,
) -> list[list[float]]:
    """Of every rollout of every group of a mini-batch."""
    if goal.advantage.startswith("reinforce++"):
        base = [[r - (mean(g) if goal.advantage.endswith("baseline") else 0.0) for r in g] for g in rewards]
        tokens = [
            b for bs, ns in zip(base, lengths, strict=True) for b, n in zip(bs, ns, strict=True) for _ in range(n)
        ]
        centre = mean(tokens)
        variance = math.fsum((t - centre) ** 2 for t in tokens) / (len(tokens) - 1)
        values = [[(b - centre) / math.sqrt(variance + 1e-8) for b in bs] for bs in base]
    else:
        values = [of_group(g, goal) for g in rewards]
    return [weighted(v, e, goal) for v, e in zip(values, explorer, strict=True)]


def of_group(rewards: Sequence[float], goal: ObjectiveConfig) -> list[float]:
    if len(rewards) == 1:
        return [0.0]
    if goal.advantage == "rloo":
        return [r - mean([o for j, o in enumerate(rewards) if j != i]) for i, r in enumerate(rewards)]
    if goal.advantage == "pass_at_k":
        return by_subsets(rewards, goal.pass_k, goal.normalise_std)
    centre = mean(rewards)
    deviation = math.sqrt(math.fsum((r - centre) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - centre) / (deviation + 1e-6 if goal.normalise_std else 1.0) for r in rewards]


def by_subsets(rewards: Sequence[float], k: int, normalise: bool) -> list[float]:
    """Every subset of k is an answer that is right if one of its rollouts is; a rollout has the mean of its subsets."""
    subsets = list(itertools.combinations(range(len(rewards)), k))
    scores = [max(rewards[i] for i in s) for s in subsets]
    centre = mean(scores)
    deviation = math.sqrt(mean([(s - centre) ** 2 for s in scores]))
    if deviation == 0:
        return [0.0] * len(rewards)
    scaled = [(s - centre) / (deviation if normalise else 1.0) for s in scores]
    return [mean([v for v, s in zip(scaled, subsets, strict=True) if i in s]) for i in range(len(rewards))]


def weighted(values: Sequence[float], explorer: Sequence[bool], goal: ObjectiveConfig) -> list[float]:
    kept = [v * goal.explorer_negatives if e and v < 0 else v for v, e in zip(values, explorer, strict=True)]
    return [k - mean(kept) for k in kept] if goal.recentre else kept


def importance(log_ratios: Sequence[float], level: str, mode: str, cap: float) -> list[float]:
    """Of the tokens of one response."""
    if level == "none":
        return [1.0] * len(log_ratios)
    if level == "sequence":
        log_ratios = [math.fsum(log_ratios)] * len(log_ratios)
    ratios = [math.exp(max(-20.0, min(20.0, x))) for x in log_ratios]
    return [min(r, cap) if mode == "truncate" else r if 1 / cap <= r <= cap else 0.0 for r in ratios]


def policy_losses(new: Sequence[float], old: Sequence[float], a: float, goal: ObjectiveConfig) -> list[float]:
    """Of the tokens of one response."""
    ratios = [math.exp(n - o) for n, o in zip(new, old, strict=True)]
    low, high = 1 - goal.clip_low, 1 + goal.clip_high
    if goal.loss == "gspo":
        ratios = [math.prod(ratios) ** (1 / len(ratios))] * len(ratios)
    if goal.loss == "cispo":
        return [-min(max(r, low), high) * a * n for r, n in zip(ratios, new, strict=True)]
    if goal.loss == "sapo":
        t = goal.sapo_positive if a > 0 else goal.sapo_negative
        return [-4 / t / (1 + math.exp(-t * (r - 1))) * a for r in ratios]
    return [max(-r * a, -min(max(r, low), high) * a) for r in ratios]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
