"""Policy losses per token, by the name that `objective.loss` gives them.

A loss is a function of (tokens: LossTokens, objective: LossOptions). It returns a `PolicyLoss`, or only its first
field, the loss of each token: float32 [N], differentiable by `tokens.logprobs`. In the formulas below, r is the ratio
exp(logprobs - old_logprobs) of a token and A its advantage.

The trainer then multiplies each token's loss by its importance weight, adds KL and entropy, and takes the weighted sum
(objective/weighting.py). A function must therefore not average, and must treat each response alone, since the rows that
responses are packed into differ with the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from s2l_ray.errors import ConfigError
from s2l_ray.extensions import Registry
from s2l_ray.objective.packed import sequence_sums, spread
from s2l_ray.objective.returned import described, is_tensor_like, made_not_finite, wanted

if TYPE_CHECKING:
    from torch import Tensor


class LossTokens(NamedTuple):
    """The response tokens of one packed row: N tokens of S responses, laid end to end.

    Only `logprobs` has a gradient.
    """

    logprobs: Tensor
    """float32 [N], log-probs under the policy that is trained."""
    old_logprobs: Tensor
    """float32 [N], of the same tokens under the learner's weights before the step, whoever sampled them. With
    objective.old_logprobs: engine, those of the learner's tokens are its engine's (`engine_logprobs`)."""
    advantages: Tensor
    """float32 [N]."""
    lengths: Tensor
    """int64 [S], response tokens of each sequence; N in all, each at least 1."""
    from_explorer: Tensor
    """bool [N], whether the explorer sampled the token."""
    engine_logprobs: Tensor
    """float32 [N], log-probs that the sampling engine reported."""


class PolicyLoss(NamedTuple):
    """The result of a loss function. `ratio` and `clipped` are for metrics and carry no gradient."""

    loss: Tensor
    """float32 [N]."""
    ratio: Tensor
    """float32 [N], r."""
    clipped: Tensor
    """bool [N]: the clip bound holds, and the token has no gradient (ppo, gspo) or a bounded one (cispo)."""


class LossOptions(Protocol):
    """The part of the section `objective` that losses read; functions get the whole section."""

    @property
    def loss(self) -> str:
        """The name of the loss."""

    @property
    def clip_low(self) -> float:
        """Clip r at 1 - clip_low."""

    @property
    def clip_high(self) -> float:
        """Clip r at 1 + clip_high."""

    @property
    def sapo_positive(self) -> float:
        """Temperature of sapo where A > 0."""

    @property
    def sapo_negative(self) -> float:
        """Temperature of sapo elsewhere."""


LossFunction = Callable[[LossTokens, LossOptions], "PolicyLoss | Tensor"]
LOSSES: Registry[LossFunction] = Registry("objective.loss", "tokens, objective")


def policy_loss(tokens: LossTokens, objective: LossOptions) -> PolicyLoss:
    """The loss that `objective.loss` names.

    Raises:
        ConfigError: there is no such loss, or a user's one raised something or returned something other than one finite
            loss per token, with a gradient.
    """
    name = objective.loss
    found = LOSSES.call(name, tokens, objective)
    if isinstance(found, PolicyLoss):
        policy = found
    else:
        ratio = (tokens.logprobs - tokens.old_logprobs).exp().detach()
        policy = PolicyLoss(found, ratio, _nowhere(ratio))
    if LOSSES.is_built_in(name):
        return policy
    if problem := _problem(policy, tokens):
        raise ConfigError(f"objective.loss: {name} returned {problem}")
    return policy._replace(ratio=policy.ratio.detach(), clipped=policy.clipped.detach())


@LOSSES.register("ppo")
def ppo(tokens: LossTokens, objective: LossOptions) -> PolicyLoss:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A).

    PPO's surrogate (arXiv 1707.06347, eq. 7), and GRPO's (arXiv 2402.03300, eq. 3). clip_high > clip_low is DAPO's
    clip-higher (arXiv 2503.14476, eq. 10).
    """
    return _clipped((tokens.logprobs - tokens.old_logprobs).exp(), tokens.advantages, objective)


@LOSSES.register("gspo")
def gspo(tokens: LossTokens, objective: LossOptions) -> PolicyLoss:
    """The loss of ppo with one ratio for a whole response: the geometric mean of its tokens' (GSPO, arXiv 2507.18071).

    All tokens of a response have the same loss, so the mean over them is the loss of the response. The paper averages
    over sequences (objective.aggregation: sequence) and clips at 3e-4 and 4e-4.
    """
    mean_log_ratio = sequence_sums(tokens.logprobs - tokens.old_logprobs, tokens.lengths) / tokens.lengths
    return _clipped(spread(mean_log_ratio.exp(), tokens.lengths, len(tokens.advantages)), tokens.advantages, objective)


@LOSSES.register("cispo")
def cispo(tokens: LossTokens, objective: LossOptions) -> PolicyLoss:
    """-stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) A logprobs (CISPO of MiniMax-M1, arXiv 2506.13585, eq. 4).

    The clip bounds the weight of a token's gradient and never drops it. clip_low = 1 is no lower bound, as published.
    """
    ratio = (tokens.logprobs - tokens.old_logprobs).exp().detach()
    bounded = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
    return PolicyLoss(-bounded * tokens.advantages * tokens.logprobs, ratio, bounded != ratio)


@LOSSES.register("sapo")
def sapo(tokens: LossTokens, objective: LossOptions) -> PolicyLoss:
    """-(4 / t) sigmoid(t (r - 1)) A: a soft gate instead of a clip (SAPO, arXiv 2511.20347).

    t is sapo_positive where A > 0 and sapo_negative elsewhere. The gradient's weight falls smoothly on both sides of
    r = 1, where it is that of r A.
    """
    ratio, advantages = (tokens.logprobs - tokens.old_logprobs).exp(), tokens.advantages
    positive = advantages.new_full(advantages.shape, objective.sapo_positive)
    temperature = positive.where(advantages > 0, objective.sapo_negative)
    gate = 4 / temperature * (temperature * (ratio - 1)).sigmoid()
    return PolicyLoss(-gate * advantages, ratio.detach(), _nowhere(ratio))


def _clipped(ratio: Tensor, advantages: Tensor, objective: LossOptions) -> PolicyLoss:
    bounded = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
    unclipped, clipped = ratio * advantages, bounded * advantages
    return PolicyLoss(-unclipped.minimum(clipped), ratio.detach(), (clipped < unclipped).detach())


def _nowhere(ratio: Tensor) -> Tensor:
    """Bool [N], all False."""
    return ratio.new_zeros(ratio.shape).bool()


def _problem(policy: PolicyLoss, tokens: LossTokens) -> str | None:
    """What is wrong with the result of a user's function, and what it should be; None if it can be used."""
    loss, logprobs = policy.loss, tokens.logprobs
    if not is_tensor_like(loss, logprobs):
        return f"{described(loss)}; return the loss of each token, {wanted(logprobs)}, or a PolicyLoss"
    for name in ("ratio", "clipped"):
        if not is_tensor_like(value := getattr(policy, name), logprobs):
            return f"a PolicyLoss whose {name} is {described(value)}; give {wanted(logprobs)}, or return the loss only"
    if logprobs.requires_grad and not loss.requires_grad:
        return (
            "a loss without a gradient; compute it from tokens.logprobs with torch, without detach(), item() or numpy()"
        )
    if not_finite := made_not_finite(loss, logprobs):
        return f"a loss that is NaN or infinite for {not_finite} of {len(loss)} tokens"
    return None
