"""What Tune is told of a step: flat numbers and texts, which its schedulers, searchers and loggers take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_ray.results import EvaluationRecord, StepRecord
from s2l_ray.run.earlier_evaluations import evaluations_in
from s2l_ray.run.training_run import TrainingRun
from s2l_ray.tracking.metrics import evaluation_metrics, step_metrics

Result = dict[str, float | str | None]
"""By MLflow's names of the metrics."""


def trial_result(run: TrainingRun) -> Result:
    """The last step of a run: its metrics, and where the run is.

    The learner's newest held-out evaluation is repeated until there is another one, with the step after which it was
    measured as `eval/learner/step` (0: before training).
    """
    result = _result(run.records[-1], run.newest_evaluation)
    where: Result = {"mlflow_run_id": run.mlflow_run_id, "run_dir": str(run.settings.run_path)}
    return result | where | {"step": run.steps_done, "done": run.done}


def result_of_finished(summary: Mapping[str, Any]) -> Result:
    """What Tune was told, or would have been, after the last step of a run that has a summary.

    Raises:
        Exception: one of `machine.reading.MISREAD`: another version wrote it.
    """
    records = [StepRecord.from_json(row) for row in summary["steps"]]
    run_dir = str(summary["run_dir"])
    result = _result(records[-1], evaluations_in(Path(run_dir), summary).newest)
    where: Result = {"mlflow_run_id": summary["mlflow_run_id"], "run_dir": run_dir}
    return result | where | {"step": len(records), "done": True}


def _result(record: StepRecord, evaluation: EvaluationRecord | None) -> Result:
    result: Result = {**step_metrics(record)}
    if evaluation is not None:
        result |= evaluation_metrics(evaluation) | {"eval/learner/step": evaluation.step}
    return result
