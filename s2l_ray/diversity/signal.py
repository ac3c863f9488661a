"""Signal and noise of the gradient of a mini-batch, from the gradients of single prompts.

g is the gradient that one prompt's group contributes, such that a mini-batch's gradient is the mean of its prompts'. mu
is its expectation over prompts and rollouts, Sigma its covariance. In units of the objective's gradient:

    squared norm     |mu|^2
    variance         tr Sigma = E|g|^2 - |mu|^2
    within prompts   the part of tr Sigma that other rollouts of the same prompt make
    SNR              |mu|^2 / (tr Sigma / n) of a mini-batch of n prompts, without a unit
    noise scale      tr Sigma / |mu|^2 prompts: the mini-batch whose SNR is 1 (arXiv 1812.06162, B_simple)
    cosine           <mu, mu_L> / (|mu| |mu_L|), with mu_L the learner's

All are ratios of unbiased estimates: squares and products of means are taken over pairs of different prompts, since the
mean of P gradients has a squared norm of |mu|^2 + tr Sigma / P. So an estimate of |mu|^2 may come out below 0 where
noise hides it, and a cosine above 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2l_ray.diversity.intervals import Bootstrap, Resampled, divided

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Signal:
    """The gradient from one source's groups."""

    squared_norm: Resampled
    variance: Resampled
    within: Resampled | None
    """None with one group for each prompt."""
    snr: Resampled
    noise_scale: Resampled
    """NaN where the squared norm is not above 0."""
    cosine: Resampled
    """NaN where a squared norm is not above 0."""
    empty: Resampled
    """Share of the groups whose rewards are all equal."""


def signal(gradients: Floats, learner: Floats, empty: Floats, prompts: int, bootstrap: Bootstrap) -> Signal:
    """Measure it.

    Args:
        gradients: float64 [P, J, d]: of J disjoint groups of each of P prompts, projected. P is at least 2.
        learner: float64 [P, J', d], of the learner's own groups of the same prompts.
        empty: float64 [P], share of a prompt's groups without a gradient.
        prompts: n of the SNR.
        bootstrap: over these prompts.
    """
    of_prompt, of_learner = gradients.mean(1), learner.mean(1)
    norm = _product_of_means(of_prompt, of_prompt, bootstrap)
    square = bootstrap.mean((gradients**2).sum(2).mean(1))
    variance = Resampled(square.value - norm.value, square.draws - norm.draws)
    learner_norm = _product_of_means(of_learner, of_learner, bootstrap)
    product = _product_of_means(of_prompt, of_learner, bootstrap)
    return Signal(
        squared_norm=norm,
        variance=variance,
        within=_within(gradients, bootstrap),
        snr=_ratio(norm, variance).map(lambda value: value * prompts),
        noise_scale=_ratio(variance, norm),
        cosine=_cosine(product, norm, learner_norm),
        empty=bootstrap.mean(empty),
    )


def _product_of_means(a: Floats, b: Floats, bootstrap: Bootstrap) -> Resampled:
    """<mu_a, mu_b> from pairs of different prompts; the copies of a prompt in a resample are one prompt.

    Args:
        a: float64 [P, d].
        b: likewise.
    """
    table, w = a @ b.T, bootstrap.weights
    pairs = ((w @ table) * w).sum(1) - w**2 @ np.diag(table)
    return bootstrap.statistic(divided(pairs, w.sum(1) ** 2 - (w**2).sum(1)))


def _within(gradients: Floats, bootstrap: Bootstrap) -> Resampled | None:
    """The trace of the covariance of a prompt's groups, in the mean over prompts."""
    groups = gradients.shape[1]
    return bootstrap.mean(gradients.var(axis=1, ddof=1).sum(1)) if groups > 1 else None


def _ratio(above: Resampled, below: Resampled) -> Resampled:
    (value,) = divided(np.array([above.value]), np.array([below.value]))
    return Resampled(float(value), divided(above.draws, below.draws))


def _cosine(product: Resampled, norm: Resampled, learner_norm: Resampled) -> Resampled:
    with np.errstate(invalid="ignore"):
        of_draws = np.sqrt(norm.draws) * np.sqrt(learner_norm.draws)
        of_value = np.sqrt(norm.value) * np.sqrt(learner_norm.value)
    return _ratio(product, Resampled(float(of_value), np.nan_to_num(of_draws)))
