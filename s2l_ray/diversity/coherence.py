"""How plausible trajectories are to the learner, and where along the way they stop being so.

    log-prob    sum of log p(y_t | y_<t) over all response tokens of a problem set / number of tokens, in nats per token
    perplexity  exp(-log-prob)
    divergence  the mean of log q(y_t) - log p(y_t), with q what the token was sampled from: estimates the KL divergence
                of the source from the learner per token, in nats, 0 for the learner itself
    profile     the mean log-prob in each of some parts of the response: token t of n, from 0, is in part parts t // n

p is the learner at the temperature that it is trained at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2l_ray.diversity.intervals import Bootstrap, Resampled

Floats = NDArray[np.float64]
MOST_PARTS = 20


@dataclass(frozen=True)
class Coherence:
    """The coherence of one source's rollouts under the learner."""

    logprob: Resampled
    """Nats per token."""
    perplexity: Resampled
    divergence: Resampled
    """Nats per token."""
    profile: list[Resampled]
    """Nats per token of each part."""


def coherence(
    logprobs: Sequence[Sequence[Floats]], sampled: Sequence[Sequence[Floats]], bootstrap: Bootstrap
) -> Coherence:
    """Measure it.

    Args:
        logprobs: of each problem and rollout, float64 [tokens] under the learner.
        sampled: of the same tokens, what they were sampled with.
        bootstrap: over these problems.
    """
    tokens = np.array([sum(map(len, problem)) for problem in logprobs], dtype=np.float64)
    under, by = _sums(logprobs), _sums(sampled)
    mean = bootstrap.ratio(under, tokens)
    parts = parts_of(logprobs)
    profile = np.array([profile_sums(problem, parts) for problem in logprobs])
    return Coherence(
        logprob=mean,
        perplexity=mean.map(lambda value: np.exp(-value)),
        divergence=bootstrap.ratio(by - under, tokens),
        profile=[bootstrap.ratio(profile[:, 0, part], profile[:, 1, part]) for part in range(parts)],
    )


def parts_of(logprobs: Sequence[Sequence[Floats]]) -> int:
    """Into how many parts responses are divided: as many as the median one has tokens, at most MOST_PARTS."""
    lengths = [len(rollout) for problem in logprobs for rollout in problem if len(rollout)]
    return max(1, min(MOST_PARTS, int(np.median(lengths)))) if lengths else 1


def profile_sums(rollouts: Sequence[Floats], parts: int) -> Floats:
    """Sums of log-probs, and numbers of tokens, in each part of a problem's responses: float64 [2, parts]."""
    sums = np.zeros((2, parts))
    for rollout in rollouts:
        part = np.arange(len(rollout)) * parts // max(len(rollout), 1)
        sums[0] += np.bincount(part, rollout, minlength=parts)
        sums[1] += np.bincount(part, minlength=parts)
    return sums


def _sums(values: Sequence[Sequence[Floats]]) -> Floats:
    return np.array([sum(float(rollout.sum()) for rollout in problem) for problem in values])
