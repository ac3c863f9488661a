"""The keys that may change within a trial: those to which population-based training may give a donor's copy new values.

A key is changeable where a trainer that exists takes the new value with its next update, no actor is built from it, and
the optimizer steps that are done mean the same under both values. What is changeable therefore costs an exploit nothing
but the donor's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHANGEABLE = (
    # AdamW. Its moments belong to parameters, not to parameter groups, so they stay where weight_decay changes these.
    *("trainer.learning_rate", "trainer.betas", "trainer.eps"),
    *("trainer.weight_decay", "trainer.decay_norms_and_embeddings"),
    # Read before each optimizer step. The rate of the n-th is that of the new values, n counted from the first step of
    # the weights, the donor's included.
    *("trainer.warmup_steps", "trainer.lr_schedule", "trainer.lr_min_ratio"),
    *("trainer.grad_clip", "trainer.skip_grad_norm"),
    # Read in each update.
    *("objective.advantage", "objective.normalise_std", "objective.pass_k"),
    *("objective.loss", "objective.clip_low", "objective.clip_high"),
    *("objective.sapo_positive", "objective.sapo_negative"),
    *("objective.kl", "objective.kl_estimator", "objective.kl_in"),
    *("objective.entropy", "objective.aggregation", "objective.aggregation_tokens", "objective.old_logprobs"),
    *("objective.overlong", "objective.overlong_buffer_tokens", "objective.overlong_penalty"),
    *("objective.correction.explorer", "objective.correction.learner"),
    *("objective.correction.mode", "objective.correction.cap"),
    *("objective.explorer_negatives", "objective.recentre"),
)
"""Dotted keys. objective.kl may change between values above 0 only: see `unchangeable`."""

_COUNTED = "it decides how many optimizer steps a step has, and the learning rate is a function of their number"
_BUILT = "the trainer's ranks are built from it"
_PLANNED = "the plan of a rank's memory is made with it"
NOT_CHANGEABLE: Mapping[str, str] = {
    "trainer.ranks": "it is the number of trainer actors",
    "trainer.replicas": "the trainer's ranks joined each other in these groups",
    "trainer.cpus": "Ray reserved them when the trial began",
    "trainer.threads": _BUILT,
    "trainer.micro_batch_tokens": _PLANNED,
    "trainer.logprob_chunk_tokens": _PLANNED,
    "trainer.gradient_checkpointing": _BUILT,
    "trainer.recomputed_layers": _BUILT,
    "trainer.reshard_after_forward": _BUILT,
    "trainer.compile": _BUILT,
    "trainer.flash_attention": _BUILT,
    "trainer.deterministic": _BUILT,
    "trainer.lora_rank": "it makes another model",
    "trainer.lora_alpha": "it makes another model",
    "trainer.lora_targets": "it makes another model",
    "trainer.cpu_offload": _BUILT,
    "objective.grouping": _COUNTED,
    "objective.mini_batch_prompts": _COUNTED,
    "objective.reference_offload": _BUILT,
}
"""The other keys of trainer and objective, and why they cannot change within a trial."""


def why_not(key: str) -> str | None:
    """Why a key of the configuration cannot change within a trial; None if it can."""
    if key in CHANGEABLE:
        return None
    return NOT_CHANGEABLE.get(key, "only keys of trainer and objective can change within a trial")


def unchangeable(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two configurations that are not to be made within a trial, one line each.

    Args:
        before, now: values by dotted key, of the same keys. Keys that need not be checked are left out.

    Returns:
        Such as "trainer.lora_rank was 0, now 8: it makes another model".
    """
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        reason = why_not(key)
        if key == "objective.kl" and 0 in (old, new):
            reason = "the reference model, which a coefficient above 0 needs, is loaded when the trainer is built"
        if reason is not None:
            lines.append(f"{key} was {old!r}, now {new!r}: {reason}")
    return lines
