"""What Tune is told of a step: flat numbers and texts, which its schedulers, searchers and loggers take."""

from __future__ import annotations

from s2l_ray.run.training_run import TrainingRun
from s2l_ray.tracking.metrics import evaluation_metrics, step_metrics

Result = dict[str, float | str | None]
"""By MLflow's names of the metrics."""


def trial_result(run: TrainingRun) -> Result:
    """The last step of a run: its metrics, and where the run is.

    The learner's newest held-out evaluation is repeated until there is another one, with the step after which it was
    measured as `eval/learner/step` (0: before training).
    """
    result: Result = {**step_metrics(run.records[-1])}
    if (evaluation := run.newest_evaluation) is not None:
        result |= evaluation_metrics(evaluation) | {"eval/learner/step": evaluation.step}
    where: Result = {"mlflow_run_id": run.mlflow_run_id, "run_dir": str(run.settings.run_path)}
    return result | where | {"step": run.steps_done, "done": run.done}
