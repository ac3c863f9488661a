"""How rollouts are sampled, and which of them a step trains on."""

from __future__ import annotations

from typing import Annotated

from s2l_ray.config.section import (
    Field,
    LocalPath,
    NonNegative,
    Positive,
    PositiveFloat,
    Section,
    model_validator,
)
from s2l_ray.kinds import WeightSyncMode


class SamplingConfig(Section):
    """How an engine samples a token."""

    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Divides the logits before a token is sampled; at most 2, as vLLM has it."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample among the most probable tokens whose probabilities add up to this; 1: no limit."""
    top_k: NonNegative = 0
    """Sample among the most probable tokens, this many; 0: no limit."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Subtracted from the logit of every token that the response already has."""


class RolloutConfig(Section):
    """Groups of rollouts: their size, how they are sampled, and how far ahead."""

    group_size: Positive = 8
    """G: number of rollouts per prompt, at least 2."""
    prompts_per_step: Positive = 32
    """Number of prompts, and so of groups, that a step trains on."""
    max_tokens: Positive = 256
    """Most tokens of a response; a longer one is cut off."""
    explorer: SamplingConfig = SamplingConfig()
    learner: SamplingConfig = SamplingConfig()
    explorer_seed: int | None = None
    """Seed of the explorer's training rollouts; default: seed. Runs with different seeds can share the explorer
    rollouts of a bank if this one is equal; they are then less independent of each other."""
    prefetch_steps: NonNegative = 1
    """Number of coming steps whose explorer rollouts are sampled while the trainer works. They are never stale, because
    the explorer is frozen."""
    prefetch_gb: PositiveFloat = 1.0
    """Most GiB of the object store for prefetched rollouts, finished or being sampled. When it is used up, prefetching
    waits. The rollouts of the current step do not count."""
    max_staleness: NonNegative = 0
    """Most versions by which the weights that sample a step may be older than the newest, so that learner engines
    sample while the trainer works. 0: on-policy, and the run is reproducible. Above 0 the versions depend on timing.
    Needs learner engines on devices of their own. Old log-probs are the trainer's, and objective.correction.learner
    corrects the difference; or they are the engine's (objective.old_logprobs)."""
    weight_sync_mode: WeightSyncMode = "drain"
    """What a weight sync does with requests that are being sampled, of which there are some only if max_staleness is
    above 0:

    - `drain`: it waits for them; requests that are queued start under the new weights;
    - `in_flight`: they continue under the new weights, with their KV caches recomputed. The weight version of every
      token is recorded."""
    straggler_groups: NonNegative = 0
    """Number of prompts that are sampled per step in addition to prompts_per_step. A step trains on the groups that are
    complete first; the others, the stragglers, are aborted. This favours short responses. The stragglers of every step
    are recorded in RUN_DIR/stragglers.jsonl, and a step that is repeated has the same ones."""
    replay_stragglers: LocalPath | None = None
    """stragglers.jsonl of another run, whose stragglers are left out here too, whichever groups are complete first."""
    refill_rounds: NonNegative = 0
    """Dynamic sampling (DAPO, arXiv 2503.14476): groups whose rewards are all equal have no gradient and are replaced
    by groups of further prompts, in at most this number of rounds per step. Groups without variance that remain after
    that are trained on as they are."""
    keep_groups: NonNegative = 2
    """Number of groups of every step whose texts and verdicts are written to RUN_DIR/rollouts/."""

    @model_validator(mode="after")
    def _group_size(self) -> RolloutConfig:
        if self.group_size < 2:
            raise ValueError("group_size must be at least 2: an advantage is relative to the rest of its group")
        return self

    @model_validator(mode="after")
    def _weight_sync_mode(self) -> RolloutConfig:
        if self.weight_sync_mode == "in_flight" and self.max_staleness == 0:
            raise ValueError(
                "weight_sync_mode: in_flight needs max_staleness above 0: on-policy nothing runs during a weight sync"
            )
        return self

    @model_validator(mode="after")
    def _stragglers(self) -> RolloutConfig:
        if self.replay_stragglers is not None and self.straggler_groups == 0:
            raise ValueError("replay_stragglers needs straggler_groups, as many as in the run that is replayed")
        if self.straggler_groups and self.refill_rounds:
            raise ValueError("straggler_groups and refill_rounds both replace prompts of a step; choose one of them")
        return self
