"""What MLflow is told after every step beside its metrics, where it is wanted: how busy nodes are, and rollouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.config import Config

if TYPE_CHECKING:
    from s2l_ray.tracking.tracker import Tracker

AfterStep = Callable[[int], None]
"""Given the number of a step that has ended."""


def extras(settings: Config, directory: Path, tracker: Tracker) -> list[AfterStep]:
    """What to call after every step. Ray is running.

    Args:
        settings: of the run, with what is wanted (tracking.system_metrics, tracking.rollout_traces).
        directory: of the run.
        tracker: hears of it.
    """
    if not settings.tracking.enabled:
        return []
    wanted = []
    if settings.tracking.system_metrics:
        wanted.append(_system_metrics(tracker))
    if settings.tracking.rollout_traces:
        wanted.append(_rollout_traces(settings.tracking.rollout_traces, directory, tracker))
    return wanted


def _system_metrics(tracker: Tracker) -> AfterStep:
    from actors.node_meters import NodeMeters

    meters = NodeMeters()

    def log(step: int) -> None:
        for at, values in meters.after(step):
            tracker.log_metrics(values, at)

    return log


def _rollout_traces(count: int, directory: Path, tracker: Tracker) -> AfterStep:
    def log(step: int) -> None:
        tracker.log_traces(directory / "rollouts" / f"step-{step:06d}.jsonl", step, count)

    return log
