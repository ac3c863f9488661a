"""From the rewards of a group to the advantages of its rollouts, by the name that `objective.advantage` gives.

An estimator is a function of (group: GroupRewards, objective: AdvantageOptions) that returns float64 [G], one value for
each of the group's G rollouts; every token of a rollout gets its value. Explorer and learner rollouts of a prompt share
one mean and one deviation; with `grouping: separate` a group is one source's rollouts of a prompt, and nothing else
changes. An estimator is not called for a group whose rewards are all equal: it has no advantage.

An estimator that is decorated with `WholeBatch` is called for every group, and its values are then normalised over the
mini-batch, as REINFORCE++ has it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from math import comb, sqrt
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from s2l_ray.errors import ConfigError, GroupError
from s2l_ray.extensions import Registry

Floats = NDArray[np.float64]

STD_EPS = 1e-6
"""Added to the deviation before dividing, as verl's `compute_grpo_outcome_advantage` does; the authors use verl."""
VARIANCE_EPS = 1e-8
"""Added to the variance of a mini-batch, as verl's `masked_whiten` does."""
ROUNDING = 1e-12
"""A value this close to the mean is the mean: equal values have an advantage of exactly 0 though means are rounded."""
_SHOWN = reprlib.Repr()  # bounded
_SHOWN.maxlist, _SHOWN.maxother = 32, 200


class GroupRewards(NamedTuple):
    """The rollouts of one prompt, as estimators see them."""

    rewards: Floats
    """float64 [G], less what is taken off for the KL or for overlong responses. Read-only in a user's function."""
    from_explorer: NDArray[np.bool_]
    """bool [G]."""
    lengths: NDArray[np.int64]
    """int64 [G], response tokens."""


class AdvantageOptions(Protocol):
    """The part of the section `objective` that is read here; estimators get the whole section."""

    @property
    def advantage(self) -> str:
        """The name of the estimator."""

    @property
    def normalise_std(self) -> bool:
        """Divide by the group's deviation (grpo and pass_at_k)."""

    @property
    def pass_k(self) -> int | None:
        """The k of pass_at_k."""

    @property
    def explorer_negatives(self) -> float:
        """Factor on negative advantages of explorer rollouts."""

    @property
    def recentre(self) -> bool:
        """Then subtract the group's mean."""


AdvantageFunction = Callable[[GroupRewards, AdvantageOptions], Floats]
ADVANTAGES: Registry[AdvantageFunction] = Registry("objective.advantage", "group, objective")


class WholeBatch:
    """Decorator of an estimator whose values are normalised over all response tokens of the mini-batch afterwards."""

    def __init__(self, estimate: AdvantageFunction) -> None:
        self._estimate = estimate
        self.__wrapped__ = estimate  # for inspect: parameters, and the module of the function

    def __call__(self, group: GroupRewards, objective: AdvantageOptions) -> Floats:
        """The values before they are normalised, float64 [G]."""
        return self._estimate(group, objective)


def is_over_batch(advantage: str) -> bool:
    """Whether the estimator of this name is a `WholeBatch`. Raises ConfigError if there is no such estimator."""
    return isinstance(ADVANTAGES.resolve(advantage), WholeBatch)


# ---- estimators -----------------------------------------------------------------------------------------------------


@ADVANTAGES.register("grpo")
def grpo(group: GroupRewards, objective: AdvantageOptions) -> Floats:
    """Reward minus the group's mean, over the group's deviation if `normalise_std` (arXiv 2402.03300, sec. 4.1.2).

    The deviation is the sample standard deviation (ddof = 1), the choice of TRL and verl; Algorithm 1 of
    arXiv 2605.30789 normalises over the combined group and leaves the estimator open. Without the deviation it is
    Dr. GRPO's advantage (arXiv 2503.20783).
    """
    rewards = group.rewards
    values: Floats = rewards - rewards.mean()
    return values / (rewards.std(ddof=1) + STD_EPS) if objective.normalise_std else values


@ADVANTAGES.register("rloo")
def rloo(group: GroupRewards, objective: AdvantageOptions) -> Floats:
    """Reward minus the mean of the G - 1 others (REINFORCE leave-one-out, arXiv 2402.14740).

    Equals G / (G - 1) times the reward minus the mean of all G.
    """
    rewards = group.rewards
    values: Floats = rewards - (rewards.sum() - rewards) / (len(rewards) - 1)
    return values


@ADVANTAGES.register("reinforce++")
@WholeBatch
def reinforce_plus_plus(group: GroupRewards, objective: AdvantageOptions) -> Floats:
    """The rewards, normalised over the mini-batch (REINFORCE++, arXiv 2501.03262)."""
    return group.rewards


@ADVANTAGES.register("reinforce++_baseline")
@WholeBatch
def reinforce_plus_plus_baseline(group: GroupRewards, objective: AdvantageOptions) -> Floats:
    """Reward minus the group's mean, normalised over the mini-batch (REINFORCE++ with baseline, arXiv 2501.03262)."""
    rewards = group.rewards
    if rewards.min() == rewards.max():  # a mean is rounded
        return np.zeros_like(rewards)
    values: Floats = rewards - rewards.mean()
    return values


@ADVANTAGES.register("pass_at_k")
def pass_at_k(group: GroupRewards, objective: AdvantageOptions) -> Floats:
    """Advantages of maximising pass@k, averaged analytically over all k-subsets of the group (arXiv 2508.10751).

    A subset is right when one of its rollouts is. With W wrong of G the mean over subsets is m = 1 - C(W, k) / C(G, k)
    and the deviation sqrt(m (1 - m)). A rollout's value is the mean of subset reward - m over the subsets that hold it:
    1 - m if it is right (all of them are), 1 - m - C(W - 1, k - 1) / C(G - 1, k - 1) if it is wrong. Values add up to
    0; all are 0 when every subset is right (W < k) or none is. k = 1 is GRPO with the population deviation.

    Raises:
        GroupError: a reward is neither 0 nor 1.
        ConfigError: objective.pass_k is not given.
    """
    rewards, k = group.rewards, objective.pass_k
    if k is None:
        raise ConfigError("objective.advantage: pass_at_k needs objective.pass_k")
    if not np.isin(rewards, (0.0, 1.0)).all():
        raise GroupError(
            f"objective.advantage=pass_at_k needs rewards of 0 or 1, not {rewards.tolist()}; "
            "use another estimator, or a verifier that says right or wrong"
        )
    size, wrong = len(rewards), int((rewards == 0).sum())
    if wrong < k or wrong == size:
        return np.zeros_like(rewards)
    mean = 1 - comb(wrong, k) / comb(size, k)
    if_wrong = comb(wrong - 1, k - 1) / comb(size - 1, k - 1)
    values: Floats = 1 - mean - if_wrong * (rewards == 0)
    return values / sqrt(mean * (1 - mean)) if objective.normalise_std else values


# ---- a group --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchMoments:
    """Moments of the values of a `WholeBatch` estimator over all response tokens of a mini-batch, on all ranks."""

    mean: float
    variance: float
    """The sample variance (ddof = 1)."""


@dataclass(frozen=True)
class GroupAdvantages:
    """The advantages of one group."""

    values: Floats
    """float64 [G]."""
    zero_variance: bool
    """All rewards are equal: every advantage is exactly 0, except with an estimator that normalises over the batch."""


def group_advantages(
    group: GroupRewards, objective: AdvantageOptions, batch: BatchMoments | None = None
) -> GroupAdvantages:
    """The estimator's values, then the weight of the explorer's negative ones.

    Negative advantages of explorer rollouts are multiplied by objective.explorer_negatives after normalising. With
    objective.recentre the group's mean is then subtracted, so that its advantages add up to 0 again: what the
    explorer's mistakes no longer push down is taken from everyone alike.

    Args:
        group: G >= 2 rollouts, or 1 with `grouping: separate`.
        batch: the moments of the mini-batch for a `WholeBatch` estimator, None for any other.

    Raises:
        GroupError: pass_at_k on rewards other than 0 and 1.
        ConfigError: see `estimated`.
        ValueError: `batch` is given to another estimator than a `WholeBatch`, or missing for one.
    """
    over_batch = is_over_batch(objective.advantage)
    if over_batch != (batch is not None):
        raise ValueError(f"moments of the mini-batch go with a WholeBatch estimator; this is {objective.advantage}")
    zero_variance = bool(group.rewards.min() == group.rewards.max())
    if zero_variance and not over_batch:  # a mean is rounded, so rewards - mean need not be exactly 0
        return GroupAdvantages(np.zeros_like(group.rewards), zero_variance=True)
    values = estimated(group, objective)
    if batch is not None:
        values = whiten(values, batch)
    values = np.where(group.from_explorer & (values < 0), values * objective.explorer_negatives, values)
    return GroupAdvantages(values - values.mean() if objective.recentre else values, zero_variance)


def estimated(group: GroupRewards, objective: AdvantageOptions) -> Floats:
    """The estimator's values for a group, before they are normalised or weighted: float64 [G].

    Raises:
        ConfigError: there is no such estimator, or a user's one raised something or returned something other than one
            finite number per rollout.
    """
    name = objective.advantage
    if ADVANTAGES.is_built_in(name):
        return ADVANTAGES.resolve(name)(group, objective)
    found = ADVANTAGES.call(name, GroupRewards(*map(_read_only, group)), objective)
    values = _numbers(found)
    if values is None or values.shape != group.rewards.shape or not np.isfinite(values).all():
        raise ConfigError(
            f"objective.advantage: {name} returned {_SHOWN.repr(found)} for rewards {group.rewards.tolist()}; return "
            f"{len(group.rewards)} finite numbers, one for each rollout, as a list or NumPy array"
        )
    return values


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    """The same values, which cannot be changed through this array."""
    view = values.view()
    view.flags.writeable = False
    return view


def _numbers(found: object) -> Floats | None:
    """What a user's estimator returned as float64 of any shape; None if it is not numbers."""
    try:
        values = np.asarray(found)
        # Text and complex numbers would be converted, too. An object may be a number, such as a Fraction.
        return values.astype(np.float64) if values.dtype.kind in "biufO" else None
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors that have a gradient or are on a GPU
        return None


# ---- normalising over a mini-batch ----------------------------------------------------------------------------------


def batch_moments(
    values: Floats, lengths: NDArray[np.int64], all_reduce_sum: Callable[[Floats], Floats]
) -> BatchMoments:
    """Mean and sample variance, each rollout weighted by its length.

    Every token of a response has its rollout's value, so a rollout counts as often as it has tokens. Same as verl's
    `masked_whiten` over its response mask, with the sample variance.

    Args:
        values: float64 [rollouts on this rank], possibly none.
        lengths: int64 [same], response tokens.
        all_reduce_sum: adds a float64 array over all ranks. Called twice: variance is about the mean of all ranks.
    """
    tokens, total = all_reduce_sum(np.array([lengths.sum(), (values * lengths).sum()], dtype=np.float64))
    mean = total / max(tokens, 1.0)
    (squares,) = all_reduce_sum(np.array([((values - mean) ** 2 * lengths).sum()], dtype=np.float64))
    return BatchMoments(float(mean), float(squares / max(tokens - 1, 1.0)))


def whiten(values: Floats, batch: BatchMoments) -> Floats:
    """(values - mean) / sqrt(variance + VARIANCE_EPS): mean 0 and variance 1 over the mini-batch (arXiv 2501.03262)."""
    distance = values - batch.mean
    distance = np.where(np.abs(distance) < ROUNDING, 0.0, distance)
    whitened: Floats = distance / np.sqrt(batch.variance + VARIANCE_EPS)
    return whitened


# ---- shaping rewards ------------------------------------------------------------------------------------------------


def overlong_punishment(lengths: NDArray[np.int64], *, max_tokens: int, buffer_tokens: int, largest: float) -> Floats:
    """The punishment of long responses, >= 0, to be taken off the reward: linear over the last tokens before the limit.

    DAPO's soft overlong punishment: the paper's R_length (arXiv 2503.14476, eq. 13) is this, negated, with largest = 1;
    as verl's overlong buffer with its penalty factor.

    Args:
        lengths: int64 [N], response tokens.
        max_tokens: the limit.
        buffer_tokens: the punishment is 0 up to max_tokens - buffer_tokens.
        largest: the punishment at max_tokens and beyond.

    Returns:
        float64 [N].
    """
    exceeding = lengths - (max_tokens - buffer_tokens)
    punishment: Floats = largest * np.clip(exceeding / buffer_tokens, 0.0, 1.0)
    return punishment
