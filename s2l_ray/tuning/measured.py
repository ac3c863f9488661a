"""The metric that trials are compared by: whether there is such a metric, and when it is, and was, measured."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from s2l_ray.config import Config
from s2l_ray.errors import ConfigError
from s2l_ray.tracking.metrics import FAMILIES_OF_STEPS, OF_STEPS

EVALUATION = "eval/learner/"
OF_EVALUATIONS = ("reward", "response_tokens")
"""Beside pass_at_K."""


def check_metric(metric: str, base: Config) -> None:
    """Refuse a metric that trials with this configuration do not have.

    Raises:
        ConfigError: it is unknown, or evaluations do not measure it.
    """
    if not metric.startswith("eval/"):
        family, _, rest = metric.partition("/")
        if metric not in OF_STEPS and not (rest and family in FAMILIES_OF_STEPS):
            near = difflib.get_close_matches(metric, OF_STEPS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "docs/reference/metrics.md lists them"
            raise ConfigError(f"metric: {metric!r} is no metric of a step; {hint}")
        return
    name = metric.removeprefix(EVALUATION)
    if name == metric:
        raise ConfigError(f"metric: {metric} is not measured of trials; evaluations of the learner are {EVALUATION}...")
    if base.data.eval is None:
        raise ConfigError(f"metric: {metric} needs held-out problems; give data.eval, or another metric such as reward")
    known = [*(f"pass_at_{k}" for k in base.evaluation.k), *OF_EVALUATIONS]
    if name not in known:
        of_file = "; a study takes none of a single file" if name.rpartition("/")[2] in known else ""
        there = f"with evaluation.k as it is there are {', '.join(known)}"
        raise ConfigError(f"metric: {metric} is not measured; {there}{of_file}")


def is_measured_at(metric: str, step: int, base: Config) -> bool:
    """Whether the metric is measured at a step within the run and at its multiples."""
    if not metric.startswith("eval/"):
        return True
    every = base.evaluation.every
    return bool(every) and step % every == 0


def step_of(result: Mapping[str, Any]) -> int:
    """How many steps a trial's result was reported after."""
    return int(result.get("step", result.get("training_iteration", 0)))


def measured_after(metric: str, result: Mapping[str, Any]) -> int:
    """How many steps the value of the metric in a trial's result was measured after.

    An evaluation is carried on in the results of later steps, the one before training (0) too.
    """
    step = step_of(result)
    return int(result.get(f"{EVALUATION}step", step)) if metric.startswith(EVALUATION) else step
