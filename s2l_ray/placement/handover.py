"""How many slots are the learner's in each phase: the same in all, or growing as the explorer hands its own over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Phase:
    """Costs of one phase."""

    seconds: np.ndarray
    """Of all its steps: [choice of learner slots]; infinite where it is impossible."""
    steps: int
    explores: bool


@dataclass(frozen=True)
class Split:
    """Slots of each kind."""

    learner: tuple[int, ...]
    """In every phase; never falls, since explorer slots are handed over and not back."""
    total: int
    """Explorer slots are the rest."""

    @property
    def hands_over(self) -> bool:
        return len(set(self.learner)) > 1


def best_split(
    phases: list[Phase],
    choices: list[int],
    total: int,
    wait: np.ndarray,
    *,
    hands_over: bool,
    forced: bool,
    start_s: float,
) -> tuple[Split, float] | None:
    """The fastest way through the phases.

    Args:
        choices: numbers of learner slots to choose from, ascending.
        total: slots.
        wait: what the run's first step costs more, for each choice.
        hands_over: learner slots may grow between phases; else they are the same in all.
        forced: every slot is the learner's in a phase without the explorer.
        start_s: seconds until handed-over engines take part; until then steps take as long as without them.

    Returns:
        The split, and seconds of the run; None if nothing is possible.
    """
    numbers = np.array(choices)
    cost = phases[0].seconds + wait
    back: list[np.ndarray] = []
    for phase in phases[1:]:
        slow, fast = phase.seconds[:, None] / phase.steps, phase.seconds[None, :] / phase.steps
        with np.errstate(invalid="ignore", divide="ignore"):
            late = np.minimum(phase.steps, start_s / slow) * np.maximum(0.0, slow - fast)
        grows = numbers[None, :] > numbers[:, None]
        same = numbers[None, :] == numbers[:, None]
        allowed = same | grows if hands_over else same
        if hands_over and forced and not phase.explores:
            allowed &= (numbers == total)[None, :]
        move = cost[:, None] + np.where(same, 0.0, np.where(np.isfinite(late), late, np.inf)) + phase.seconds[None, :]
        move = np.where(allowed, move, np.inf)
        back.append(np.argmin(move, axis=0))
        cost = np.min(move, axis=0)
    last = int(np.argmin(cost))
    if not np.isfinite(cost[last]):
        return None
    path = [last]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return Split(tuple(choices[n] for n in reversed(path)), total), float(cost[last])
