"""Weights of token losses: in the mini-batch, and importance weights of tokens that another policy sampled.

Every token gets a weight that depends on totals of the whole mini-batch only, never on the rank, the micro-batch or the
row that it is packed in: sums of weighted token losses are then the same however the tokens are split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.errors import ConfigError
from s2l_ray.extensions import Registry
from s2l_ray.kinds import Aggregation, CorrectionMode, Source
from s2l_ray.objective.packed import sequence_sums, spread
from s2l_ray.objective.returned import described, is_tensor_like, made_not_finite, wanted

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_EXPONENT = 20.0
"""Log-ratios are held within +-20, as verl's rollout correction does."""


def token_weights(
    response_tokens: int,
    aggregation: Aggregation,
    *,
    total_tokens: int,
    total_sequences: int,
    constant_tokens: int | None = None,
) -> float:
    """The weight of each of a sequence's response tokens.

    Args:
        response_tokens: length of this response, > 0.
        aggregation: "token" is the mean over all response tokens of the mini-batch (DAPO, arXiv 2503.14476, eq. 8);
            "sequence" the mean over sequences of each one's token mean (GRPO as published, arXiv 2402.03300, eq. 3);
            "constant" the mean over sequences of each one's token sum over `constant_tokens` (Dr. GRPO,
            arXiv 2503.20783: no length is favoured).
        total_tokens: response tokens of the whole mini-batch over all ranks, those of rollouts that are not forwarded
            included.
        total_sequences: rollouts, counted likewise.
        constant_tokens: needed for "constant".

    Raises:
        ConfigError: constant_tokens is needed and missing.
    """
    if aggregation == "token":
        return 1.0 / total_tokens
    if aggregation == "sequence":
        return 1.0 / (total_sequences * response_tokens)
    if constant_tokens is None:
        raise ConfigError("objective.aggregation: constant needs objective.aggregation_tokens")
    return 1.0 / (total_sequences * constant_tokens)


CorrectionFunction = Callable[["Tensor", "Tensor"], "Tensor"]
CORRECTIONS: Registry[CorrectionFunction] = Registry(
    "objective.correction.explorer, objective.correction.learner", "log_ratio, lengths"
)
"""Levels of importance correction, by the name in `objective.correction.explorer` and `.learner`.

Each is a function of (log_ratio: float32 [N], lengths: int64 [S]) that returns the log of every token's ratio,
float32 [N]. log_ratio is the learner's log-prob before the step less that which the engine sampled the token with, for
N response tokens of S responses laid end to end; nothing has a gradient.
"""


@CORRECTIONS.register("none")
def no_correction(log_ratio: Tensor, lengths: Tensor) -> Tensor:
    """Zeros: every ratio is 1."""
    return log_ratio.new_zeros(log_ratio.shape)


@CORRECTIONS.register("token")
def token_level(log_ratio: Tensor, lengths: Tensor) -> Tensor:
    """Each token's own ratio (verl's token level)."""
    return log_ratio


@CORRECTIONS.register("sequence")
def sequence_level(log_ratio: Tensor, lengths: Tensor) -> Tensor:
    """The product of the ratios over the response, for each of its tokens (verl's sequence level)."""
    return spread(sequence_sums(log_ratio, lengths), lengths, len(log_ratio))


class Correction(NamedTuple):
    """Importance weights of N tokens."""

    weights: Tensor
    """float32 [N], without gradient; multiplies the policy loss, not the KL."""
    kept: Tensor
    """bool [N]: the ratio is within [1 / cap, cap]."""


def correction(
    log_ratio: Tensor, lengths: Tensor, *, source: Source, level: str, mode: CorrectionMode, cap: float
) -> Correction:
    """Bounded importance weights.

    Args:
        log_ratio: float32 [N], without gradient; see `CORRECTIONS`.
        lengths: int64 [S], response tokens of each sequence of the row.
        source: whose level it is; messages name its key.
        level: a name of `CORRECTIONS`, or module:function.
        mode: truncate: min(ratio, cap) (truncated importance sampling). mask: the ratio within [1 / cap, cap], 0
            outside.
        cap: > 1.

    Raises:
        ConfigError: there is no such level, or a user's function raised something or returned something other than one
            finite log-ratio per token.
    """
    key = f"objective.correction.{source}"
    found = CORRECTIONS.call(level, log_ratio, lengths, key=key)
    if not CORRECTIONS.is_built_in(level) and (problem := _problem(found, log_ratio)):
        raise ConfigError(f"{key}: {level} returned {problem}")
    ratio = found.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
    kept = (ratio >= 1 / cap) & (ratio <= cap)
    return Correction(ratio.clamp(max=cap) if mode == "truncate" else ratio * kept, kept)


def _problem(found: Tensor, log_ratio: Tensor) -> str | None:
    """What is wrong with the result of a user's function, and what it should be; None if it can be used."""
    if not is_tensor_like(found, log_ratio):
        return f"{described(found)}; return the log-ratio of each token, {wanted(log_ratio)}"
    if not_finite := made_not_finite(found, log_ratio):
        return (
            f"a log-ratio that is NaN or infinite for {not_finite} of {len(found)} tokens; log-ratios are held within "
            f"+-{LARGEST_EXPONENT:g}, so return a number at most as large as that"
        )
    return None
