"""How many bundles are the learner's in each phase: the same in all, or growing as the explorer hands its own over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2l_ray.planner.costs import FloatArray, IntArray


@dataclass(frozen=True)
class BundleSplit:
    """How the engine bundles are split between learner and explorer."""

    learner: tuple[int, ...]
    """Engine bundles of the learner in each phase; never falls, since explorer bundles are handed over and not back."""
    total: int
    """Explorer bundles are the rest."""

    @property
    def hands_over(self) -> bool:
        """Whether the learner gets more bundles on the way."""
        return len(set(self.learner)) > 1


@dataclass(frozen=True)
class PhaseCosts:
    """Costs of one phase, by the number of engine bundles that are the learner's."""

    seconds: FloatArray
    """Seconds of all steps, float [choice]; infinite where it is impossible."""
    steps: int
    explores: bool


def fixed_split(phases: list[PhaseCosts], choices: IntArray, wait: FloatArray) -> tuple[tuple[int, ...], float]:
    """The fastest split that is the same in all phases, and the run's seconds (infinite if none is possible).

    Args:
        choices: numbers of learner bundles to choose from, ascending.
        wait: what the run's first step costs more, for each choice.
    """
    cost = wait + sum(phase.seconds for phase in phases)
    best = int(np.argmin(cost))
    return (int(choices[best]),) * len(phases), float(cost[best])


def growing_split(
    phases: list[PhaseCosts], choices: IntArray, wait: FloatArray, *, total: int, forced: bool, start_s: float
) -> tuple[tuple[int, ...], float]:
    """The fastest split whose learner bundles may grow between phases, and the run's seconds.

    Args:
        total: bundles.
        forced: every bundle is the learner's in a phase without the explorer.
        start_s: seconds until handed-over engines take part; until then steps take as long as without them.
    """
    cost, back = phases[0].seconds + wait, []
    same = np.eye(len(choices), dtype=bool)
    may_grow = choices[None, :] >= choices[:, None]
    for phase in phases[1:]:
        allowed = may_grow & (choices == total) if forced and not phase.explores else may_grow
        late = late_seconds(phase, start_s)
        move = cost[:, None] + np.where(same, 0.0, late) + phase.seconds
        move = np.where(allowed & np.isfinite(move), move, np.inf)
        back.append(np.argmin(move, axis=0))
        cost = np.min(move, axis=0)
    path = [int(np.argmin(cost))]
    seconds = float(cost[path[0]])
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return tuple(int(choices[n]) for n in reversed(path)), seconds


def late_seconds(phase: PhaseCosts, start_s: float) -> FloatArray:
    """Seconds that a phase takes longer while handed-over engines start, float [choice before, choice in it]."""
    step = phase.seconds / phase.steps
    with np.errstate(invalid="ignore", divide="ignore"):
        late: FloatArray = np.minimum(phase.steps, start_s / step)[:, None] * np.maximum(0.0, step[:, None] - step)
    return late
