"""What MLflow calls the numbers of steps and evaluations."""

from __future__ import annotations

import math
import re

from s2l_ray.compute import Compute
from s2l_ray.results import EvaluationRecord, Spent, StepRecord

OF_STEPS = (
    *("alpha", "G_w", "G_s", "reward", "tokens", "tokens_per_second", "weight_version", "groups"),
    *("zero_variance_groups", "refilled_groups", "explorer_only_groups", "compared_groups"),
    "rollout_compute_saved",
)
"""Metrics of a step."""
OF_ANSWERS = ("truncated", "empty", "repetitive", "non_finite", "garbage")
"""Counts of a source's answers, as `SourceStats` names them."""
FAMILIES_OF_STEPS = (
    *("engines", "rollouts", "tokens", "reward", *OF_ANSWERS, "verdicts"),
    *("flops", "seconds", "busy", "pipeline", "health", "trainer"),
)
"""How the other metrics of a step begin, up to the first slash."""


def step_metrics(record: StepRecord) -> dict[str, float]:
    """The metrics of a step by MLflow name. A source without rollouts in the step has no reward."""
    metrics: dict[str, float | None] = {
        "alpha": record.alpha,
        "G_w": record.explorer_per_group,
        "G_s": record.learner_per_group,
        "reward": record.reward,
        "tokens": record.tokens,
        "zero_variance_groups": record.zero_variance_groups,
        "groups": record.groups,
        "weight_version": record.weight_version,
        "refilled_groups": record.refilled_groups,
        "explorer_only_groups": record.explorer_only[0],
        "compared_groups": record.explorer_only[1],
    }
    metrics |= _compute(record.compute)
    metrics |= {f"engines/{source}": count for source, count in record.engines.items()}
    for source, stats in record.sources.items():
        metrics[f"rollouts/{source}"] = stats.rollouts
        metrics[f"tokens/{source}"] = stats.response_tokens
        if stats.rollouts:
            metrics[f"reward/{source}"] = stats.reward
            metrics |= {f"{name}/{source}": getattr(stats, name) for name in OF_ANSWERS}
            metrics |= {f"verdicts/{source}/{status}": count for status, count in stats.verdicts.items()}
    # Parts that are phases have the same seconds as those.
    metrics |= {f"seconds/{part}": value for part, value in (record.parts | record.seconds).items()}
    metrics |= {f"busy/{role}": share for role, share in record.busy.items()}
    metrics |= {f"pipeline/{key}": value for key, value in record.pipeline.to_json().items()}
    metrics |= {f"health/{condition}": steps for condition, steps in record.health.items()}
    metrics |= {f"trainer/{key}": value for key, value in record.trainer.items()}
    if record.seconds.get("total"):
        metrics["tokens_per_second"] = record.tokens / record.seconds["total"]
    return {key: value for key, value in metrics.items() if value is not None and not math.isnan(value)}


def evaluation_metrics(record: EvaluationRecord) -> dict[str, float]:
    """The metrics of an evaluation by MLflow name, which cannot have an "@"."""
    metrics = {"reward": record.reward, "response_tokens": record.response_tokens, "seconds": record.seconds}
    metrics |= _spent(record.spent)
    metrics |= {f"pass_at_{k}": value for k, value in record.pass_at.items()}
    metrics |= {f"pass_at_{k}_low": low for k, (low, _) in record.ci.items()}
    metrics |= {f"pass_at_{k}_high": high for k, (_, high) in record.ci.items()}
    for file, of_file in record.files.items():
        metrics[f"{file}/reward"] = of_file.reward
        metrics |= {f"{file}/pass_at_{k}": value for k, value in of_file.pass_at.items()}
    return {f"eval/{record.model}/{key}": value for key, value in metrics.items()}


def _compute(compute: Compute | None) -> dict[str, float | None]:
    if compute is None:
        return {}
    metrics: dict[str, float | None] = {f"flops/{source}": value for source, value in compute.rollout_flops.items()}
    return metrics | {
        "flops/recorded": compute.recorded_flops,
        "flops/grpo": compute.grpo_flops,
        "flops/update": compute.update_flops,
        "tokens/recorded": compute.recorded_tokens,
        "rollout_compute_saved": compute.rollout_compute_saved,
    }


def _spent(spent: Spent | None) -> dict[str, float]:
    if spent is None:
        return {}
    metrics = {"spent/seconds": spent.seconds}
    if (compute := spent.compute) is None:
        return metrics
    metrics |= {"spent/prompts": compute.prompts, "spent/tokens": compute.sampled_tokens, "spent/flops": compute.flops}
    saved = compute.rollout_compute_saved
    return metrics if saved is None else metrics | {"spent/rollout_compute_saved": saved}


def metric_name(name: str) -> str:
    """`name` with what MLflow refuses replaced: letters, digits and _ - . space : / are allowed, in a clean path."""
    name = re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)
    return "/".join(part for part in name.split("/") if part.strip("."))[:250] or "_"
