"""The objective: advantages, losses, KL, corrections."""

from __future__ import annotations

from typing import Annotated

from s2l_ray.config.section import AfterValidator, Field, Fractional, Positive, PositiveFloat, Section, model_validator
from s2l_ray.kinds import Aggregation, CorrectionMode, Grouping, KLEstimator, KLPlace, OldLogprobs, Overlong
from s2l_ray.objective import ADVANTAGES, CORRECTIONS, LOSSES, WholeBatch

CorrectionLevel = Annotated[str, AfterValidator(CORRECTIONS.checked)]


class CorrectionConfig(Section):
    """Off-policy correction of the policy loss, by source."""

    explorer: CorrectionLevel = "none"
    """Weight on the policy loss of the explorer's tokens; its values are those of `learner`."""
    learner: CorrectionLevel = "none"
    """Weight on the policy loss of the learner's tokens: w = exp(learner's log-prob before the step - log-prob that
    the engine sampled with). `none`: 1, as the paper has it; `token`: each token its own w; `sequence`: the product
    over the response, for each of its tokens (verl's token and sequence levels); or your own `module:function`, called
    as function(log_ratio, lengths) (s2l_ray/objective/weighting.py says with what, examples/correction.py is one). The
    engine's log-prob is of the distribution sampled from, top-p and top-k included; the learner's has
    rollout.learner.temperature only."""
    mode: CorrectionMode = "truncate"
    """`truncate`: min(w, cap), truncated importance sampling; `mask`: w within [1/cap, cap], else 0. What is masked
    stays in the loss's denominators. Metric correction_kept/SOURCE: share of tokens with w within [1/cap, cap]."""
    cap: Annotated[float, Field(gt=1)] = 2.0
    """Largest weight."""


class ObjectiveConfig(Section):
    """What an update minimises."""

    advantage: Annotated[str, AfterValidator(ADVANTAGES.checked)] = "grpo"
    """From the rewards R of a group of G rollouts, of mean m and sample standard deviation s:
    `grpo`: (R - m) / s (arXiv 2402.03300);
    `rloo`: R minus the mean of the G - 1 others (arXiv 2402.14740);
    `reinforce++`: R normalised to mean 0 and deviation 1 over all response tokens of the mini-batch (arXiv 2501.03262);
    `reinforce++_baseline`: R - m, so normalised;
    `pass_at_k`: the group's pass@k, shared out over its rollouts in closed form (arXiv 2508.10751);
    `module:function`: your own, called as function(group, objective) (s2l_ray/objective/advantages.py says with what,
    examples/advantage.py is one)."""
    normalise_std: bool = True
    """grpo and pass_at_k: divide by the group's standard deviation; off: only the mean is removed (Dr. GRPO)."""
    pass_k: Positive | None = None
    """k of pass_at_k, less than rollout.group_size; 1 is grpo with the population deviation."""
    grouping: Grouping = "mixed"
    """`mixed`: explorer and learner rollouts of a prompt are one group (the paper's Algorithm 1). `separate`: each
    source's are a group of their own and an optimizer step of their own, the explorer's first (the authors' release);
    old log-probs are of before both. A source's step is left out where it has no rollouts; a sub-group of one rollout
    has advantage 0."""
    loss: Annotated[str, AfterValidator(LOSSES.checked)] = "ppo"
    """With r the ratio of a token's probability to that before the step, and A its advantage:
    `ppo`: -min(r A, clip(r) A), per token (GRPO's; DAPO's with clip_high > clip_low and aggregation: token);
    `gspo`: the same with the geometric mean of r over the response (arXiv 2507.18071: clips of 3e-4 and 4e-4,
    aggregation: sequence);
    `cispo`: -clip(r) A log p without gradient through clip(r) (MiniMax-M1, arXiv 2506.13585: clip_low 1);
    `sapo`: -(4 / t) sigmoid(t (r - 1)) A, no clip (arXiv 2511.20347);
    `module:function`: your own, called as function(tokens, objective) (s2l_ray/objective/losses.py says with what,
    examples/loss.py is one)."""
    clip_low: Fractional = 0.2
    """ppo, gspo and cispo: clip(r) holds r at 1 - clip_low or above."""
    clip_high: PositiveFloat = 0.2
    """ppo, gspo and cispo: clip(r) holds r at 1 + clip_high or below."""
    sapo_positive: PositiveFloat = 1.0
    """sapo: t of tokens with A > 0."""
    sapo_negative: PositiveFloat = 1.05
    """sapo: t of all other tokens."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of the KL estimate to the initial learner."""
    kl_estimator: KLEstimator = "k3"
    """With d = log p - log p_reference: `k1`: d; `k2`: d^2 / 2; `k3`: exp(-d) - 1 + d. In the loss, k1's gradient is 0
    in expectation and k2's is that of the KL (objective/kl.py)."""
    kl_in: KLPlace = "loss"
    """`loss`: kl times the estimate is added to each token's loss. `reward`: kl times its sum over the response, under
    the weights before the step, is taken off the rollout's reward; costs another forward of every rollout."""
    entropy: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of the entropy bonus: entropy times the policy's entropy at each response token is taken off that
    token's loss, and weighs as `aggregation` says."""
    old_logprobs: OldLogprobs = "trainer"
    """What r divides by. `trainer`: the learner's probability before the step, which the trainer computes again with
    more than one optimizer step for each training step. `engine`: for the learner's rollouts, the probability with
    which the engine sampled the token; for the explorer's, as `trainer`. This saves a forward pass over the learner's
    rollouts. r then also contains the engine's rounding and the staleness of its weights, which clipping limits, so
    correction.learner must be none. Needs rollout.learner without top_p, top_k and presence_penalty."""
    aggregation: Aggregation = "token"
    """Mean over all response tokens of the mini-batch (DAPO); or mean over sequences of each sequence's token mean
    (GRPO); or mean over sequences of each sequence's token sum / aggregation_tokens (Dr. GRPO, arXiv 2503.20783)."""
    aggregation_tokens: Positive | None = None
    """For aggregation: constant. Dr. GRPO's choice is rollout.max_tokens."""
    overlong: Overlong = "keep"
    """`filter`: responses cut off at rollout.max_tokens have no loss (DAPO, arXiv 2503.14476). Their rewards count in
    the group's advantages and their tokens in the loss's denominators nevertheless."""
    overlong_buffer_tokens: Positive | None = None
    """Soft overlong punishment (DAPO, eq. 13): a response of n tokens, B = overlong_buffer_tokens and
    L = rollout.max_tokens, has overlong_penalty * (n - (L - B)) / B taken off its reward where n > L - B."""
    overlong_penalty: PositiveFloat | None = None
    """Largest punishment, of a response of rollout.max_tokens; default 1, as published."""
    correction: CorrectionConfig = CorrectionConfig()
    """Off-policy correction with the log-probs that the engines sampled with."""
    explorer_negatives: Fractional = 1.0
    """Weight of negative advantages of explorer rollouts; 1 as published, 0 drops them."""
    recentre: bool = False
    """After explorer_negatives, shift each group's advantages to mean 0 again."""
    reference_offload: bool = False
    """Keep the reference's shards in host memory and copy each layer to the GPU when it is used (CUDA; on CPUs it lies
    there anyway). With trainer.lora_rank the reference is the learner without its adapters, and there is nothing to
    keep elsewhere."""
    mini_batch_prompts: Positive | None = None
    """Prompts per optimizer step; default: all prompts of the step at once."""

    @model_validator(mode="after")
    def _consistent(self) -> ObjectiveConfig:
        wrong = {
            "advantage: pass_at_k needs pass_k": self.advantage == "pass_at_k" and self.pass_k is None,
            "pass_k is only for advantage: pass_at_k": self.advantage != "pass_at_k" and self.pass_k is not None,
            "advantage: pass_at_k needs grouping: mixed; a source's share of a group can be smaller than pass_k": (
                self.advantage == "pass_at_k" and self.grouping == "separate"
            ),
            "aggregation: constant needs aggregation_tokens; Dr. GRPO's choice is the value of rollout.max_tokens": (
                self.aggregation == "constant" and self.aggregation_tokens is None
            ),
            "aggregation_tokens is only for aggregation: constant": (
                self.aggregation != "constant" and self.aggregation_tokens is not None
            ),
            "recentre needs explorer_negatives below 1": self.recentre and self.explorer_negatives == 1,
            f"recentre shifts groups, which advantage: {self.advantage} does not centre; set recentre: false": (
                self.recentre and self.over_batch
            ),
            "overlong_penalty needs overlong_buffer_tokens": (
                self.overlong_penalty is not None and self.overlong_buffer_tokens is None
            ),
            "overlong_buffer_tokens makes rewards other than 0 and 1, which advantage: pass_at_k needs": (
                self.overlong_buffer_tokens is not None and self.advantage == "pass_at_k"
            ),
            "reference_offload needs kl above 0; without it there is no reference": (
                self.reference_offload and self.kl == 0
            ),
            "old_logprobs: engine needs correction.learner: none; the ratio divides by the engine's probability": (
                self.old_logprobs == "engine" and self.correction.learner != "none"
            ),
            "kl_in: reward needs kl above 0": self.kl_in == "reward" and self.kl == 0,
            "kl_in: reward makes rewards other than 0 and 1, which advantage: pass_at_k needs; use kl_in: loss": (
                self.kl_in == "reward" and self.advantage == "pass_at_k"
            ),
        }
        if messages := [message for message, holds in wrong.items() if holds]:
            raise ValueError("; ".join(messages))
        return self

    @property
    def over_batch(self) -> bool:
        """Whether a built-in advantage is normalised over the mini-batch; of a user's own that is not known here."""
        return ADVANTAGES.is_built_in(self.advantage) and isinstance(ADVANTAGES.resolve(self.advantage), WholeBatch)
