"""A run's models as MLflow's LoggedModels: what MLflow shows of a checkpoint or of the final model.

They say where the model is. Its files stay there: a checkpoint may be hundreds of gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

MODEL_TYPE = "learner"
"""What MLflow shows as the type of the models."""


def log_model(client: MlflowClient, run_id: str, experiment_id: str, values: Mapping[str, Any]) -> None:
    """Add a model to a run, unless the run has it.

    Args:
        client: of the store.
        run_id: MLflow's id of the run.
        experiment_id: of the run.
        values: its `name`, the `step` after which it was taken, and its `params`, text by name.
    """
    from mlflow.entities import LoggedModelOutput

    model = _find(client, run_id, experiment_id, values["name"])
    if model is None:
        model = client.create_logged_model(
            experiment_id, values["name"], source_run_id=run_id, params=values["params"], model_type=MODEL_TYPE
        )
    client.finalize_logged_model(model.model_id, "READY")
    outputs = client.get_run(run_id).outputs
    if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, values["step"])])


def forget_model(client: MlflowClient, run_id: str, experiment_id: str, name: str) -> None:
    """Delete a run's model, which is not on disk any more; nothing if the run has none of the name."""
    if (model := _find(client, run_id, experiment_id, name)) is not None:
        client.delete_logged_model(model.model_id)


def _find(client: MlflowClient, run_id: str, experiment_id: str, name: str) -> LoggedModel | None:
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}' AND name = '{name}'")
    return found[0] if found else None
