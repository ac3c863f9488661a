"""The rules that tie sections of the configuration together, one function each.

A rule about the keys of one section is in that section. Each function here is named by the key that a user would
change, and returns what is wrong, as one line that names the keys and says what to do, or None.
"""

from __future__ import annotations

from typing import get_args

from s2l_ray.config.placement_modes import PLACEMENT_MODES, SLEEPLESS
from s2l_ray.config.sections import Sections
from s2l_ray.kinds import Source
from s2l_ray.schedule import ADAPTIVE


def engines_max_model_len(config: Sections) -> str | None:
    """A prompt and its response must fit into an engine's context."""
    need = config.data.max_prompt_tokens + config.rollout.max_tokens
    for source in get_args(Source):
        limit = config.engines.of(source).max_model_len
        if limit is not None and limit < need:
            return (
                f"engines.{source}.max_model_len ({limit}) is less than "
                f"data.max_prompt_tokens + rollout.max_tokens ({need})"
            )
    return None


def objective_pass_k(config: Sections) -> str | None:
    """pass@k of a group of k rollouts gives every rollout the same advantage."""
    k, group_size = config.objective.pass_k, config.rollout.group_size
    if k is None or k < group_size:
        return None
    return (
        f"objective.pass_k ({k}) must be less than rollout.group_size ({group_size}): "
        "with all of a group drawn at once no rollout stands out"
    )


def objective_mini_batch_prompts(config: Sections) -> str | None:
    """All mini-batches of a step have the same number of prompts."""
    mini_batch, prompts = config.objective.mini_batch_prompts, config.rollout.prompts_per_step
    if mini_batch is None or prompts % mini_batch == 0:
        return None
    return f"objective.mini_batch_prompts ({mini_batch}) must divide rollout.prompts_per_step ({prompts})"


def objective_overlong_buffer_tokens(config: Sections) -> str | None:
    """The buffer is the end of the longest response."""
    buffer, longest = config.objective.overlong_buffer_tokens, config.rollout.max_tokens
    if buffer is None or buffer <= longest:
        return None
    return (
        f"objective.overlong_buffer_tokens ({buffer}) must not exceed rollout.max_tokens ({longest}), which it counts "
        "back from"
    )


def objective_old_logprobs(config: Sections) -> str | None:
    """Engines report log-probs of the distribution that they sample from; the trainer's are of the whole softmax."""
    sampling = config.rollout.learner
    narrowed = {
        "top_p": sampling.top_p < 1,
        "top_k": sampling.top_k > 0,
        "presence_penalty": sampling.presence_penalty != 0,
    }
    if config.objective.old_logprobs != "engine" or not any(narrowed.values()):
        return None
    keys = " and ".join(f"rollout.learner.{key}" for key, given in narrowed.items() if given)
    return (
        "objective.old_logprobs: engine needs samples of the whole softmax, as the trainer computes it: leave out "
        f"{keys}, or use old_logprobs: trainer"
    )


def rollout_max_staleness_needs_awake_engines(config: Sections) -> str | None:
    """Learner engines can only sample ahead of the trainer where they do not sleep while it works."""
    name = config.placement.mode
    if not config.rollout.max_staleness or name == "auto" or not PLACEMENT_MODES[name].learner_sleeps:
        return None
    return (
        f"rollout.max_staleness needs learner engines that work while the trainer does; with placement.mode: {name} "
        f"they sleep then. Use placement.mode: {SLEEPLESS.name}"
    )


def tracking_rollout_traces(config: Sections) -> str | None:
    """Traces are made of the rollouts that are kept."""
    traces, kept = config.tracking.rollout_traces, config.rollout.keep_groups * config.rollout.group_size
    if traces <= kept:
        return None
    return (
        f"tracking.rollout_traces ({traces}) must not exceed rollout.keep_groups * rollout.group_size ({kept}), the "
        "rollouts of a step that are kept"
    )


def rollout_prefetch_steps(config: Sections) -> str | None:
    """An adaptive schedule decides the explorer's share for the next `adapt_every` steps at most."""
    return _within_adapt_window(config, "prefetch_steps", "explorer")


def rollout_max_staleness_with_adaptive_schedule(config: Sections) -> str | None:
    """The same for the learner's share."""
    return _within_adapt_window(config, "max_staleness", "learner")


def _within_adapt_window(config: Sections, key: str, source: Source) -> str | None:
    """Why a key of `rollout` looks further ahead than an adaptive schedule is known; None if it does not."""
    ahead, known = getattr(config.rollout, key), config.schedule.adapt_window
    if config.schedule.kind != ADAPTIVE or ahead <= known:
        return None
    return (
        f"rollout.{key} ({ahead}) must not exceed schedule.adapt_every ({known}): the {source}'s share is not "
        "known further ahead"
    )


def trainer_lr_schedule(config: Sections) -> str | None:
    """A learning rate that falls to its minimum at the last optimizer step needs to know how many there are."""
    kind = config.trainer.lr_schedule
    if kind == "constant":
        return None
    if config.schedule.kind == ADAPTIVE and config.objective.grouping == "separate":
        return (
            f"trainer.lr_schedule: {kind} needs the number of optimizer steps, which an adaptive schedule with "
            "objective.grouping: separate does not know beforehand"
        )
    return config.trainer.lr_schedule_problem(config.optimizer_steps)


RULES = (
    engines_max_model_len,
    objective_pass_k,
    objective_mini_batch_prompts,
    objective_overlong_buffer_tokens,
    objective_old_logprobs,
    rollout_max_staleness_needs_awake_engines,
    rollout_prefetch_steps,
    rollout_max_staleness_with_adaptive_schedule,
    tracking_rollout_traces,
    trainer_lr_schedule,
)
