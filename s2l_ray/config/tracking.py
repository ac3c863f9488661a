"""Where a run logs its metrics."""

from __future__ import annotations

from s2l_ray.config.section import NonNegative, PositiveFloat, Section


class TrackingConfig(Section):
    """Tracking with MLflow. MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN are used, and never logged."""

    enabled: bool = True
    """Log metrics, the configuration and figures to MLflow. RUN_DIR/steps.jsonl has the metrics either way."""
    uri: str | None = None
    """MLflow tracking URI; default: MLFLOW_TRACKING_URI, else a sqlite file beside the run directory. A URI with a
    password belongs in that variable; here it is refused."""
    experiment: str | None = None
    """Name of the MLflow experiment; default: MLFLOW_EXPERIMENT_NAME, else "s2l-ray". A new run directory whose
    environment has MLFLOW_RUN_ID uses that MLflow run, in its experiment."""
    parent_run: str | None = None
    """Id of the MLflow run under which this run is shown, in whose experiment it then is unless another is named. It
    has to be in the store; if that does not answer, the run goes on untracked. A study sets this key for its trials.
    With it MLFLOW_RUN_ID is not used."""
    timeout_s: PositiveFloat = 10.0
    """How long the MLflow server may take to answer a request, and the bound on waiting for it at the end of the run.
    Steps never wait for it. What it has not taken by then is kept in RUN_DIR/undelivered.jsonl, see `s2l track`."""
    system_metrics: bool = False
    """Log how busy every node is (CPUs, memory, disk, network; GPUs where `nvidia-ml-py` is installed) as
    `system/HOST/...`, means over each step. It takes a process of about 200 MB on every node."""
    rollout_traces: NonNegative = 0
    """Number of rollouts of every step that MLflow shows as traces: the first of those in RUN_DIR/rollouts/
    (rollout.keep_groups)."""
