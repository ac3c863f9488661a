"""The results of an experiment as files: `experiment.json`, in the schema of docs/reference/experiment-json.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2l_ray.evaluation.summary import describe_machine, versions
from s2l_ray.experiments.comparison import Arm, Comparison, Mean
from s2l_ray.experiments.curves import curve_of
from s2l_ray.experiments.figure import draw_experiment
from s2l_ray.experiments.measured import MeasuredRun
from s2l_ray.experiments.table import experiment_files
from s2l_ray.machine.disk import write_whole
from s2l_ray.redaction import redact
from s2l_ray.results import finite
from s2l_ray.tuning.outcomes import StudyFacts

FORMAT = 1
"""Version of experiment.json."""


def write_results(comparison: Comparison, facts: StudyFacts, directory: Path, begun: str) -> list[Path]:
    """Write experiment.json, and the figure if a run has finished.

    Args:
        comparison: of the arms.
        facts: what the experiment cost.
        directory: of the experiment, on this machine.
        begun: when its first start was, as ISO 8601 in UTC.

    Returns:
        The files that were written.

    Raises:
        DiskError: they cannot be written.
    """
    files = experiment_files(directory)
    content = finite(experiment_json(comparison, facts, begun))
    write_whole(files["results"], json.dumps(content, indent=2, allow_nan=False) + "\n")
    figure = draw_experiment(comparison, files["figure"])
    return [files["results"], *([figure] if figure else [])]


def experiment_json(comparison: Comparison, facts: StudyFacts, begun: str) -> dict[str, Any]:
    """The content of experiment.json."""
    file = comparison.file
    tested = [arm for arm in comparison.arms if (d := arm.metrics[file.metric].difference) and d.p_t is not None]
    return {
        "format": FORMAT,
        "name": file.name,
        "question": file.question,
        "hypothesis": file.hypothesis,
        "begun": begun,
        "experiment": file.model_dump(mode="json"),
        "baseline": comparison.baseline,
        "metric": file.metric,
        "confidence": comparison.confidence,
        "at": {"axis": file.at.axis, "value": comparison.place} if file.at else None,
        "comparisons": len(tested),
        "looks": file.earlier_looks + 1,
        "seconds": facts.seconds,
        "bank": dict(facts.bank),
        "mlflow_run_id": facts.mlflow_run_id,
        "mlflow_uri": redact(facts.mlflow_uri) if facts.mlflow_uri else None,
        "arms": [_arm(arm, comparison) for arm in comparison.arms],
        "runs": [_run(run) for run in comparison.runs],
        "versions": versions(),
        "machine": describe_machine(),
    }


def _arm(arm: Arm, comparison: Comparison) -> dict[str, Any]:
    compute = arm.compute
    return {
        "name": arm.name,
        "values": comparison.file.arms[arm.name],
        "metrics": {name: _mean(mean) for name, mean in arm.metrics.items()},
        "curves": {name: [asdict(p) for p in curve_of(arm, name, comparison.confidence)] for name in arm.metrics},
        "runs": len(arm.runs),
        "compute": compute and compute.to_json(),
        "seconds": arm.seconds,
    }


def _mean(mean: Mean) -> dict[str, Any]:
    return {
        "by_seed": _by_seed(mean.by_seed),
        "mean": mean.mean,
        "interval": mean.interval,
        "difference": mean.difference and asdict(mean.difference) | {"by_seed": _by_seed(mean.difference.by_seed)},
    }


def _by_seed(values: Mapping[int, float]) -> dict[str, float]:
    return {str(seed): value for seed, value in values.items()}


def _run(run: MeasuredRun) -> dict[str, Any]:
    return {
        "arm": run.run.arm,
        "seed": run.run.seed,
        "number": run.run.number,
        "status": run.status,
        "error": run.error,
        "directory": run.directory,
        "points": [{"at": point.at, "values": dict(point.values)} for point in run.points],
        "spent": run.spent and run.spent.to_json(),
    }
