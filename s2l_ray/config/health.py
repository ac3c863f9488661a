"""What a run does when its numbers go wrong."""

from __future__ import annotations

from typing import Annotated

from s2l_ray.config.section import Fractional, Positive, PositiveFloat, Section, YamlWord
from s2l_ray.kinds import HealthAction, HealthCondition

Action = Annotated[HealthAction, YamlWord]


class HealthConfig(Section):
    """What is done about numbers that go wrong.

    `off`: nothing. `warn`: a note, once the condition has lasted its number of steps, and again only after it has
    ended. `stop`: a note as soon as it begins, and the run ends, with a checkpoint, once it has lasted that long; no
    older checkpoint is removed meanwhile. A step in which a condition cannot be judged counts neither way. The metrics
    health/CONDITION count the steps in a row.
    """

    skipped_updates: Action = "stop"
    """Steps whose optimizer steps were all skipped, so that no weight changed: loss or gradient was NaN or infinite, or
    the gradient's norm above trainer.skip_grad_norm."""
    skipped_updates_steps: Positive = 5
    """How many such steps in a row."""
    non_finite: Action = "warn"
    """Steps with a rollout whose reward or engine's log-probs are NaN or infinite."""
    non_finite_steps: Positive = 1
    """How many such steps in a row."""
    explorer_garbage: Action = "warn"
    """Steps in which the explorer's answers are garbage and the learner's, if there are any, at most half as often.
    Garbage is an answer that was cut off, is empty, repeats itself, has log-probs that are not finite, or whose verdict
    is unparsable."""
    explorer_garbage_share: Fractional = 0.9
    """Share of the explorer's answers in a step from which on they count as garbage."""
    explorer_garbage_steps: Positive = 3
    """How many such steps in a row."""
    no_variance: Action = "warn"
    """Steps in which no group has rewards that differ, so that nothing is learned from them: no problem was solved, or
    each by every rollout."""
    no_variance_steps: Positive = 3
    """How many such steps in a row."""
    reward_collapse: Action = "warn"
    """The learner's mean reward over the last reward_collapse_steps steps is below reward_collapse_fraction of the best
    such mean before."""
    reward_collapse_fraction: Fractional = 0.2
    """See reward_collapse; 0 is never below."""
    reward_collapse_steps: Positive = 20
    """Steps that each mean is over; those without rollouts of the learner are left out."""
    logprob_gap: Action = "warn"
    """Steps in which the mean |engine's log-prob - trainer's before the update| of the learner's tokens is above
    logprob_gap_limit, or is not a number: on-policy, engine and trainer compute different models. With top_p, top_k or
    presence_penalty of rollout.learner on, the engine's log-probs are of another distribution. With
    rollout.max_staleness above 0 the gap also contains how far the weights have moved since."""
    logprob_gap_limit: PositiveFloat = 0.05
    """In nats per token. bfloat16 alone gave at most 0.01."""
    logprob_gap_steps: Positive = 1
    """How many such steps in a row."""

    def action(self, condition: HealthCondition) -> HealthAction:
        """What is done about a condition."""
        found: HealthAction = getattr(self, condition)
        return found

    def patience(self, condition: HealthCondition) -> int:
        """How many steps in a row a condition may hold before it is acted upon."""
        return 1 if condition == "reward_collapse" else int(getattr(self, f"{condition}_steps"))
