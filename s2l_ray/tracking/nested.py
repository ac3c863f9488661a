"""The MLflow runs under another: ending those whose process could not do it itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from s2l_ray.config import TrackingConfig
from s2l_ray.kinds import TrackedStatus
from s2l_ray.tracking.opening import PARENT, OpenedRun, asked


def end_nested(
    config: TrackingConfig, directory: Path, parent_run: str, endings: Mapping[str, TrackedStatus]
) -> list[str]:
    """End the runs under `parent_run` that MLflow believes to go on.

    Args:
        config: tracking, of the parent's configuration.
        directory: of the parent: beside it is the default store.
        parent_run: MLflow's id of the parent.
        endings: how a run ended, by its name. Others are left alone.

    Returns:
        The names of those that were ended.

    Raises:
        TrackingError: the store cannot be used, has no such parent, or does not answer in time; some may be ended.
    """
    return asked(config, directory, (), lambda store: _end(store.find(parent_run), endings), lambda late: None)


def _end(parent: OpenedRun, endings: Mapping[str, TrackedStatus]) -> list[str]:
    found = parent.client.search_runs(
        [parent.run.info.experiment_id], f"tags.`{PARENT}` = '{parent.run_id}' and attributes.status = 'RUNNING'"
    )
    ended = []
    for run in found:
        if (status := endings.get(run.info.run_name)) is not None:
            parent.client.set_terminated(run.info.run_id, status)
            ended.append(run.info.run_name)
    return ended
