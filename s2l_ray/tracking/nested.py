"""The MLflow runs under another: ending those whose process could not do it itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from s2l_ray.config import TrackingConfig
from s2l_ray.kinds import TrackedStatus
from s2l_ray.tracking.opening import PARENT, find_run


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
        TrackingError: the store cannot be used, has no such parent, or does not answer in time.
    """
    opened = find_run(config, directory, parent_run)
    found = opened.client.search_runs(
        [opened.run.info.experiment_id], f"tags.`{PARENT}` = '{parent_run}' and attributes.status = 'RUNNING'"
    )
    ended = []
    for run in found:
        if (status := endings.get(run.info.run_name)) is not None:
            opened.client.set_terminated(run.info.run_id, status)
            ended.append(run.info.run_name)
    return ended
