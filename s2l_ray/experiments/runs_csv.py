"""runs.csv: what every run of an experiment came to, a row for each evaluation, to be kept and compared again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from s2l_ray.experiments.configurations import Configuration, portable
from s2l_ray.experiments.measured import MeasuredRun, Point
from s2l_ray.kinds import Source
from s2l_ray.machine.disk import write_whole

RUNS = "runs.csv"
"""In an experiment's directory."""
SOURCES: tuple[Source, ...] = get_args(Source)
TOKENS = {source: f"tokens_{source}" for source in SOURCES}
"""Columns of the response tokens by who sampled them."""
ROLLOUT_FLOPS = {source: f"rollout_flops_{source}" for source in SOURCES}
COUNTS = ("prompts", "recorded_tokens")
FLOPS = ("update_flops", "grpo_flops", "recorded_flops")
"""With COUNTS: columns that are named as in `compute.Compute`."""
SECONDS, VALUES, ERROR = "seconds", "values", "error"
OF_RUN = ("arm", "seed", "status", "step")
COSTS = (*COUNTS, *TOKENS.values(), *ROLLOUT_FLOPS.values(), *FLOPS, SECONDS)
"""What training had spent before an evaluation."""


def write_runs(runs: Sequence[MeasuredRun], configurations: Sequence[Configuration], path: Path) -> None:
    """Write the file.

    Args:
        runs: all of the experiment, in their order.
        configurations: of each of them.
        path: of the file.

    Raises:
        DiskError: it cannot be written.
    """
    metrics = list(dict.fromkeys(metric for run in runs for point in run.points for metric in point.values))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*OF_RUN, *metrics, *COSTS, ERROR, VALUES], lineterminator="\n")
    writer.writeheader()
    for run, configuration in zip(runs, configurations, strict=True):
        writer.writerows(_rows(run, configuration))
    write_whole(path, text.getvalue())


def _rows(run: MeasuredRun, configuration: Configuration) -> list[dict[str, Any]]:
    """Those of one run: one without a step if nothing of it is compared."""
    of_run = {"arm": run.run.arm, "seed": run.run.seed, "status": run.status, ERROR: run.error}
    rows = [of_run | _measured(point) for point in run.points] or [of_run]
    rows[0][VALUES] = json.dumps(portable(configuration))  # 3 kB, which the other rows need not repeat
    return rows


def _measured(point: Point) -> dict[str, Any]:
    found: dict[str, Any] = {"step": point.step, **point.values}
    if point.spent is None:
        return found
    found[SECONDS] = point.spent.seconds
    if (compute := point.spent.compute) is not None:
        found |= {TOKENS[source]: tokens for source, tokens in compute.tokens.items()}
        found |= {ROLLOUT_FLOPS[source]: flops for source, flops in compute.rollout_flops.items()}
        found |= {name: getattr(compute, name) for name in (*COUNTS, *FLOPS)}
    return found
