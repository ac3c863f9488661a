"""The curve of an arm: means over seeds of its evaluations, with intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from s2l_ray.experiments.comparison import Arm, Interval
from s2l_ray.experiments.experiment_file import AXES, Axis
from s2l_ray.statistics import t_interval


@dataclass(frozen=True)
class CurvePoint:
    """The evaluations after one step, over seeds."""

    at: Mapping[Axis, float]
    """Mean over seeds of what had been spent; not a number where that is not known."""
    mean: float
    interval: Interval | None
    """Student's t over seeds; None with fewer than two."""
    seeds: int


def curve_of(arm: Arm, metric: str, confidence: float) -> list[CurvePoint]:
    """The points of an arm's curve, by ascending step."""
    by_step: dict[float, list[tuple[Mapping[Axis, float], float]]] = {}
    for run in arm.runs:
        for point in run.points:
            if (value := point.values.get(metric)) is not None:
                by_step.setdefault(point.at["steps"], []).append((point.at, value))
    found = []
    for step in sorted(by_step):
        places, values = zip(*by_step[step], strict=True)
        at: dict[Axis, float] = {axis: statistics.fmean(place[axis] for place in places) for axis in AXES}
        found.append(CurvePoint(at, statistics.fmean(values), t_interval(values, confidence), len(values)))
    return found
