"""What rollouts and updates cost: floating-point operations (FLOPs) of dense decoders, and how a run adds them up.

Model FLOPs: those of the matrix products that an algorithm needs, whatever computes them, a multiply and an add each.
Norms, rotations and softmax are left out (they are below 1%), and so is what is computed a second time to save memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from s2l_ray.kinds import Source
from s2l_ray.rollouts.records import RolloutSummary


@dataclass(frozen=True)
class ForwardCost:
    """FLOPs of a forward of one model."""

    layers: int
    """Per token, of the weight matrices of all layers: twice their elements."""
    attention: int
    """Per token and token that it attends to, itself included: 4 * layers * heads * head_dim."""
    head: int
    """Per token of which logits are computed: 2 * vocabulary * width."""

    def positions(self, first: int, last: int) -> int:
        """FLOPs of the tokens at positions `first` to `last` of a sequence, counted from 1, without their logits.

        The token at position i attends to i tokens.
        """
        tokens = last - first + 1
        return tokens * self.layers + self.attention * tokens * (first + last) // 2

    def sequence(self, prompt_tokens: int, response_tokens: int) -> int:
        """A forward over a prompt and a response, with logits for the response's tokens alone: as in training."""
        return self.positions(1, prompt_tokens + response_tokens) + response_tokens * self.head


def generation_flops(cost: ForwardCost, prompt_tokens: int, responses: Sequence[int]) -> float:
    """FLOPs of sampling responses to one prompt, which is read once.

    Each response token takes its logits. Each but the last is then read in its turn.

    Args:
        prompt_tokens: of the prompt.
        responses: the number of tokens of each response.
    """
    if not responses:
        return 0.0
    read = sum(cost.positions(prompt_tokens + 1, prompt_tokens + tokens - 1) for tokens in responses if tokens > 1)
    return float(cost.positions(1, prompt_tokens) + read + cost.head * sum(responses))


def update_passes(
    optimizer_steps: float,
    *,
    rescored: float = 1,
    reference: bool = False,
    kl_in_reward: bool = False,
    lora: bool = False,
) -> float:
    """How many forwards over the rollouts of a step its update amounts to.

    One forward, and a backward, which is twice as much, or as much where only adapters have gradients; old log-probs
    of every mini-batch but the first, whose are those of the forward; one of the reference; one more where the KL is
    in the reward, which is needed before any of these.

    Args:
        optimizer_steps: of the step, at least 1.
        rescored: share of a forward that old log-probs take: all of it, or with objective.old_logprobs: engine that of
            the explorer's rollouts.
        reference: the KL to a reference is estimated.
        kl_in_reward: objective.kl_in is `reward`.
        lora: adapters are trained (trainer.lora_rank).
    """
    backward = 1 if lora else 2
    return 1 + backward + rescored * (optimizer_steps - 1) / optimizer_steps + reference + kl_in_reward


@dataclass(frozen=True)
class Compute:
    """What groups cost that were trained on: those of a step, or of all steps up to one.

    Rollouts that a step sampled and did not train on are in none of the numbers: groups without variance that were
    replaced (rollout.refill_rounds), stragglers, rollouts that were too old, and what was lost with an actor.
    """

    prompts: int = 0
    """Prompts, counted as often as they were trained on."""
    tokens: dict[Source, int] = field(default_factory=dict)
    """Response tokens by who sampled them; those that were read from the bank are the explorer's."""
    rollout_flops: dict[Source, float] = field(default_factory=dict)
    """FLOPs of sampling them, by who sampled them."""
    recorded_tokens: int = 0
    """Of the explorer's tokens, those that were read from the bank."""
    recorded_flops: float = 0.0
    """Of the explorer's FLOPs, those of rollouts from the bank. They were spent once, when those were recorded, and not
    again by this run."""
    grpo_flops: float = 0.0
    """FLOPs of sampling the same groups, token for token, with the learner alone, as GRPO does."""
    update_flops: float = 0.0
    """FLOPs of the updates."""

    @property
    def sampled_tokens(self) -> int:
        """Response tokens of both sources."""
        return sum(self.tokens.values())

    @property
    def flops(self) -> float:
        """All FLOPs, of rollouts from the bank too: what the run would cost without a bank."""
        return sum(self.rollout_flops.values()) + self.update_flops

    @property
    def rollout_compute_saved(self) -> float | None:
        """1 - FLOPs of sampling / FLOPs of sampling the same groups with the learner alone; None without groups.

        Rollouts from the bank count in full, so that a run saves as much with a bank as without.
        """
        return 1 - sum(self.rollout_flops.values()) / self.grpo_flops if self.grpo_flops else None

    def __add__(self, other: Compute) -> Compute:
        return Compute(
            prompts=self.prompts + other.prompts,
            tokens=_sums(self.tokens, other.tokens),
            rollout_flops=_sums(self.rollout_flops, other.rollout_flops),
            recorded_tokens=self.recorded_tokens + other.recorded_tokens,
            recorded_flops=self.recorded_flops + other.recorded_flops,
            grpo_flops=self.grpo_flops + other.grpo_flops,
            update_flops=self.update_flops + other.update_flops,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with `rollout_compute_saved`, which follows from the others."""
        return asdict(self) | {"rollout_compute_saved": self.rollout_compute_saved}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Compute:
        """What `to_json` made `row` of."""
        return cls(**{key: value for key, value in row.items() if key != "rollout_compute_saved"})


def total(steps: Iterable[Compute | None]) -> Compute | None:
    """The sum over steps; None if it is not known of one of them, which an earlier version of s2l-ray did."""
    found = Compute()
    for one in steps:
        if one is None:
            return None
        found += one
    return found


def _sums(one: Mapping[Source, Any], other: Mapping[Source, Any]) -> dict[Source, Any]:
    return {source: one.get(source, 0) + other.get(source, 0) for source in dict.fromkeys([*one, *other])}


@dataclass(frozen=True)
class ComputeMeter:
    """Works out what the groups of a step cost.

    Args:
        costs: of a forward, of each source's model.
        reference, kl_in_reward, lora: as `update_passes`.
        old_from_engine: objective.old_logprobs is `engine`.
    """

    costs: Mapping[Source, ForwardCost]
    reference: bool = False
    kl_in_reward: bool = False
    lora: bool = False
    old_from_engine: bool = False

    def step(
        self,
        rollouts: Sequence[RolloutSummary],
        recorded: Iterable[str] = (),
        optimizer_steps: float = 1,
        trained_tokens: float | None = None,
    ) -> Compute:
        """The cost of one step.

        Args:
            rollouts: of all of its groups.
            recorded: ids of the prompts whose explorer rollouts were read from the bank.
            optimizer_steps: that the update took.
            trained_tokens: response tokens of the rollouts that were not left out of the update for having no loss
                (`trainer/skipped_rollouts`); the update's cost is taken to be in proportion. Default: all.
        """
        by_source: dict[tuple[Source, str], list[RolloutSummary]] = {}
        by_prompt: dict[str, list[RolloutSummary]] = {}
        for rollout in rollouts:
            by_source.setdefault((rollout.source, rollout.prompt_id), []).append(rollout)
            by_prompt.setdefault(rollout.prompt_id, []).append(rollout)
        from_bank = [rows for prompt in dict.fromkeys(recorded) if (rows := by_source.get(("explorer", prompt)))]
        tokens: dict[Source, int] = {}
        flops: dict[Source, float] = {}
        for (source, _), rows in by_source.items():
            tokens[source] = tokens.get(source, 0) + _response_tokens(rows)
            flops[source] = flops.get(source, 0.0) + self._sampling(rows, source)
        passes = update_passes(
            optimizer_steps,
            rescored=self._explorers_share(rollouts) if self.old_from_engine else 1,
            reference=self.reference,
            kl_in_reward=self.kl_in_reward,
            lora=self.lora,
        )
        return Compute(
            prompts=len(by_prompt),
            tokens=tokens,
            rollout_flops=flops,
            recorded_tokens=sum(map(_response_tokens, from_bank)),
            recorded_flops=sum(self._sampling(rows, "explorer") for rows in from_bank),
            grpo_flops=sum(self._sampling(rows, "learner") for rows in by_prompt.values()),
            update_flops=passes * self._forward(rollouts, trained_tokens),
        )

    def _sampling(self, rows: Sequence[RolloutSummary], source: Source) -> float:
        """Sampling one prompt's responses with the model of `source`."""
        return generation_flops(self.costs[source], rows[0].prompt_tokens, [row.response_tokens for row in rows])

    def _explorers_share(self, rollouts: Sequence[RolloutSummary]) -> float:
        """What the explorer's rollouts have of the learner's forward over all."""
        explored = [rollout for rollout in rollouts if rollout.source == "explorer"]
        return self._forward(explored, None) / self._forward(rollouts, None) if explored else 0.0

    def _forward(self, rollouts: Sequence[RolloutSummary], trained_tokens: float | None) -> float:
        """The learner's forward over what is trained on."""
        whole = sum(self.costs["learner"].sequence(row.prompt_tokens, row.response_tokens) for row in rollouts)
        tokens = _response_tokens(rollouts)
        return whole if trained_tokens is None or not tokens else whole * trained_tokens / tokens


def _response_tokens(rollouts: Iterable[RolloutSummary]) -> int:
    return sum(rollout.response_tokens for rollout in rollouts)
