"""What can be wrong with the numbers of a run: how each condition is recognised, and what a user is told of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from s2l_ray.config import HealthConfig
from s2l_ray.kinds import HealthCondition
from s2l_ray.results import SourceStats, StepRecord

Records = Sequence[StepRecord]
"""One for each step up to the one that is looked at, which is the last."""


@dataclass(frozen=True)
class Condition:
    """One of the things that can be wrong."""

    holds: Callable[[Records, HealthConfig], bool | None]
    """Whether it is so in the last step; None: that cannot be told."""
    says: Callable[[Records, HealthConfig], str]
    """What is wrong in the last step, with its numbers; a sentence that goes on after "step 12: "."""
    advice: str


def _skipped_updates(records: Records, _: HealthConfig) -> bool | None:
    trainer = records[-1].trainer
    if "updates" not in trainer or not trainer["updates"] + trainer["skipped_updates"]:
        return None  # there was nothing to train
    return not trainer["updates"]


def _say_skipped_updates(records: Records, _: HealthConfig) -> str:
    trainer = records[-1].trainer
    reason = "the loss or its gradient was NaN or infinite"
    if "grad_norm" in trainer:  # there is a norm if any of them was finite
        reason += f", or its norm (mean {trainer['grad_norm']:.3g}) above trainer.skip_grad_norm,"
    skipped = f"{trainer['skipped_updates']:.0f} optimizer steps"
    return f"no weight changed: {reason} in each of its {skipped}, which were skipped"


def _non_finite(records: Records, _: HealthConfig) -> bool:
    return any(stats.non_finite for stats in records[-1].sources.values())


def _say_non_finite(records: Records, _: HealthConfig) -> str:
    found = [
        f"{s.non_finite} of {s.rollouts} of the {source}" for source, s in records[-1].sources.items() if s.rollouts
    ]
    return f"rollouts have rewards or engine's log-probs that are NaN or infinite: {', '.join(found)}"


def _explorer_garbage(records: Records, config: HealthConfig) -> bool | None:
    explorer, learner = (records[-1].sources.get(source) for source in ("explorer", "learner"))
    if explorer is None or not explorer.rollouts:
        return None
    share = explorer.garbage / explorer.rollouts
    alike = learner is not None and learner.rollouts and learner.garbage / learner.rollouts > share / 2
    return share >= config.explorer_garbage_share and not alike


def _say_explorer_garbage(records: Records, _: HealthConfig) -> str:
    explorer, learner = records[-1].sources["explorer"], records[-1].sources.get("learner")
    beside = f" ({_garbage(learner)} of the learner's)" if learner and learner.rollouts else ""
    return (
        f"{_garbage(explorer)} of the explorer's answers are garbage{beside}: {explorer.truncated} cut off, "
        f"{explorer.empty} empty, {explorer.repetitive} repeating themselves, "
        f"{explorer.verdicts.get('unparsable', 0)} without an answer that can be read"
    )


def _garbage(stats: SourceStats) -> str:
    return f"{stats.garbage} of {stats.rollouts}"


def _no_variance(records: Records, _: HealthConfig) -> bool | None:
    """Whether no rollout had an advantage because each group's rewards are equal.

    Equal rewards alone do not say so: penalties, and advantages that are normalised over the batch, come after them.
    """
    record = records[-1]
    if not record.groups:
        return None
    return record.groups == record.zero_variance_groups and "advantage_mass/explorer" not in record.trainer


def _say_no_variance(records: Records, _: HealthConfig) -> str:
    record = records[-1]
    beside = ", but for objective.kl and objective.entropy" if record.trainer.get("trained_tokens") else ""
    return f"no group had rewards that differ, so it trained nothing{beside}; the mean reward was {record.reward:g}"


def _reward_collapse(records: Records, config: HealthConfig) -> bool | None:
    if (means := _learner_means(records, config)) is None:
        return None
    now, best = means
    return now < config.reward_collapse_fraction * best


def _say_reward_collapse(records: Records, config: HealthConfig) -> str:
    now, best = _learner_means(records, config) or (0.0, 0.0)
    over = config.reward_collapse_steps
    return f"the learner's mean reward over {over} steps is {now:.3g}, after {best:.3g} at its best"


def _learner_means(records: Records, config: HealthConfig) -> tuple[float, float] | None:
    """(mean reward of the last reward_collapse_steps steps, the best such mean); None if there are not that many."""
    over = config.reward_collapse_steps
    learner = [stats for r in records if (stats := r.sources.get("learner")) is not None and stats.rollouts]
    sums = [0.0, *itertools.accumulate(stats.reward for stats in learner)]
    means = [(end - begin) / over for begin, end in zip(sums, sums[over:], strict=False)]
    if len(means) < 2 or not records[-1].sources["learner"].rollouts:
        return None
    return means[-1], max(means[:-1])


def _logprob_gap(records: Records, config: HealthConfig) -> bool | None:
    trainer = records[-1].trainer
    if "logprob/learner" not in trainer:
        return None  # the learner sampled nothing that was trained on
    return not trainer.get("logprob_gap/learner", float("nan")) <= config.logprob_gap_limit


def _say_logprob_gap(records: Records, config: HealthConfig) -> str:
    gap = records[-1].trainer.get("logprob_gap/learner", float("nan"))
    return (
        f"log-probs of the learner's engines and its trainer differ by {gap:.3f} per token, more than "
        f"health.logprob_gap_limit ({config.logprob_gap_limit:g}): ratios and clipping mean less than they seem to"
    )


CONDITIONS: Mapping[HealthCondition, Condition] = {
    "skipped_updates": Condition(
        _skipped_updates,
        _say_skipped_updates,
        "Lower trainer.learning_rate, or raise trainer.skip_grad_norm if that is set; in a function of your own "
        "(objective.loss), look for operations that have no finite gradient, such as the root of 0",
    ),
    "non_finite": Condition(
        _non_finite,
        _say_non_finite,
        "Perhaps models.dtype is too narrow for one of the models (try float32), or its files are damaged",
    ),
    "explorer_garbage": Condition(
        _explorer_garbage,
        _say_explorer_garbage,
        "Read some of them in rollouts/. Perhaps models.explorer is not the model that it should be, data.prompt does "
        "not suit it, or rollout.explorer.temperature or rollout.max_tokens does not",
    ),
    "no_variance": Condition(
        _no_variance,
        _say_no_variance,
        "Check that verifier.kind gives right answers their reward (`s2l verify --kind`), that answers can be read and "
        "are not cut off (verdicts and truncated in steps.jsonl), and that the problems are neither too hard nor too "
        "easy for these models",
    ),
    "reward_collapse": Condition(
        _reward_collapse,
        _say_reward_collapse,
        "Go on from a checkpoint before that, in another run_dir (resume), with a lower trainer.learning_rate or with "
        "objective.kl; see whether the learner's answers became empty or endless in rollouts/",
    ),
    "logprob_gap": Condition(
        _logprob_gap,
        _say_logprob_gap,
        "See whether rollout.learner.top_p or top_k is set, and whether vLLM and transformers compute this model alike",
    ),
}
