"""The schedule of the explorer: how many of a group's G rollouts it samples at each step, in exact integers.

Algorithm 1 of arXiv 2605.30789: alpha_i = 1 - (i - 1) / (T_mix - 1) for i <= T_mix, G_w = ceil(alpha_i * G).
A float ceil is off by one for some G (G = 7, T_mix = 8, i = 7: alpha * G is exactly 1, floats say
1.0000000000000002), so every alpha here is a Fraction.

A schedule, by the name that `schedule.kind` gives, is a function of

    step: int                1, 2, ...
    mix_steps: int           T_mix, schedule.mix_steps
    start: Fraction          schedule.start, in [0, 1]

that returns alpha, the explorer's share of a group at that step: a Fraction, int or float in [0, 1]. It must be a
function of its arguments alone and must never rise from one step to the next, since plans hand explorers' devices over
when their share has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from s2l_ray.errors import ConfigError
from s2l_ray.extensions import Registry

ADAPTIVE = "adaptive"
"""The name of `AdaptiveSchedule`, which depends on what a run measures and so is no function of the step."""
LARGEST_DENOMINATOR = 10**6
"""A float is taken as the nearest fraction with at most this denominator: 0.3 is 3/10."""

ScheduleFunction = Callable[[int, int, Fraction], Fraction | float]
SCHEDULES: Registry[ScheduleFunction] = Registry("schedule.kind", "step, mix_steps, start", beside=(ADAPTIVE,))


@SCHEDULES.register("linear")
def linear(step: int, mix_steps: int, start: Fraction) -> Fraction:
    """The paper's: falls from `start` at step 1 to 0 at step T_mix."""
    return Fraction(0) if step > mix_steps else start * (1 - _progress(step, mix_steps))


@SCHEDULES.register("abrupt")
def abrupt(step: int, mix_steps: int, start: Fraction) -> Fraction:
    """`start` for steps 1..T_mix, then 0."""
    return Fraction(0) if step > mix_steps else start


@SCHEDULES.register("cosine")
def cosine(step: int, mix_steps: int, start: Fraction) -> Fraction:
    """The end points of linear, half a cosine between them, rounded to a multiple of 1/2**20, so still exact."""
    if step > mix_steps:
        return Fraction(0)
    fallen = (1 - math.cos(math.pi * _progress(step, mix_steps))) / 2
    return start * (1 - Fraction(round(fallen * 2**20), 2**20))


@SCHEDULES.register("constant")
def constant(step: int, mix_steps: int, start: Fraction) -> Fraction:
    """`start` at every step."""
    return start


@SCHEDULES.register("off")
def off(step: int, mix_steps: int, start: Fraction) -> Fraction:
    """Plain GRPO: the explorer never samples."""
    return Fraction(0)


def _progress(step: int, mix_steps: int) -> Fraction:
    """(i - 1) / (T_mix - 1). With T_mix = 1 the only step is at `start`; the formula would divide by zero."""
    return Fraction(step - 1, max(1, mix_steps - 1))


@dataclass(frozen=True)
class GroupSplit:
    """The split of one step's groups."""

    step: int
    alpha: Fraction
    explorer: int
    """G_w."""
    learner: int
    """G_s = G - G_w."""

    @property
    def size(self) -> int:
        """G."""
        return self.explorer + self.learner


@dataclass(frozen=True)
class Schedule:
    """G_w and G_s for steps 1, 2, ...

    Raises:
        ValueError: T_mix or G is below 1, or `start` is not in [0, 1].
    """

    kind: str
    """A name of `SCHEDULES`, or module:function."""
    group_size: int
    """G."""
    mix_steps: int
    """T_mix."""
    start: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.kind == ADAPTIVE or self.group_size < 1 or self.mix_steps < 1 or not 0 <= self.start <= 1:
            raise ValueError(f"impossible schedule {self}")

    def alpha(self, step: int) -> Fraction:
        """The explorer's share at `step` (1-based), in [0, 1].

        Raises:
            ConfigError: there is no such schedule, or a user's one raised something or returned something other than a
                number in [0, 1].
        """
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        alpha = SCHEDULES.call(self.kind, step, self.mix_steps, self.start)
        if not isinstance(alpha, Fraction | int | float) or not 0 <= alpha <= 1:
            raise ConfigError(
                f"schedule.kind: {self.kind} returned {alpha!r} at step {step}; return a Fraction, int or float in "
                "[0, 1]"
            )
        return Fraction(alpha).limit_denominator(LARGEST_DENOMINATOR) if isinstance(alpha, float) else Fraction(alpha)

    def split(self, step: int) -> GroupSplit:
        """The split of the groups of `step` (1-based). Raises as `alpha`."""
        alpha = self.alpha(step)
        explorer = math.ceil(alpha * self.group_size)
        return GroupSplit(step, alpha, explorer, self.group_size - explorer)

    def check(self, steps: int) -> None:
        """Call the function for every step of a run with this number of steps.

        Raises:
            ConfigError: as `alpha`, or the share rises.
        """
        alphas = [self.alpha(step) for step in range(1, steps + 1)]
        for step, (before, now) in enumerate(pairwise(alphas), start=2):
            if now > before:
                raise ConfigError(
                    f"schedule.kind: {self.kind} rises from {float(before):g} to {float(now):g} at step {step}; the "
                    "explorer's share must never rise"
                )

    def observe(self, step: int, explorer_only: int, compared: int) -> None:
        """Take what a step measured; it changes nothing here (see `AdaptiveSchedule.observe`)."""

    def nominal(self) -> Schedule:
        """The shares that can be counted on before the run: these."""
        return self


class AdaptiveSchedule:
    """A schedule that lets the explorer's share fall when the explorer no longer solves what the learner does not.

    Steps are cut into windows of `every`. G_w begins at ceil(start * G) and changes by whole rollouts: window k has
    that of window k - 1, less one if in window k - 2 fewer than `below` of the groups that both sources sampled were
    solved by the explorer alone, or if there were no such groups (then nothing is known of the learner). Never up; 0
    from step T_mix on. The window between leaves time to sample the explorer's share ahead.

    What was measured is all of its state: observe the same again, after a resume, and the shares are the same.
    """

    def __init__(self, group_size: int, mix_steps: int, start: Fraction, every: int, below: Fraction) -> None:
        self.group_size, self.mix_steps = group_size, mix_steps
        self.start, self.every, self.below = start, every, below
        self._observed: dict[int, tuple[int, int]] = {}

    def observe(self, step: int, explorer_only: int, compared: int) -> None:
        """Take what a step measured.

        Args:
            step: 1-based.
            explorer_only: groups with a right rollout of the explorer's and none of the learner's.
            compared: groups that both sources sampled.
        """
        self._observed[step] = (explorer_only, compared)

    def split(self, step: int) -> GroupSplit:
        """The split of the groups of `step` (1-based).

        Raises:
            LookupError: a step that it depends on, at least `every` steps back, has not been observed.
        """
        explorer = 0 if step >= self.mix_steps else self._explorer((step - 1) // self.every)
        return GroupSplit(step, Fraction(explorer, self.group_size), explorer, self.group_size - explorer)

    def nominal(self) -> Schedule:
        """The schedule that plans assume: a linear fall over the same steps. The real one differs until it ends."""
        return Schedule("linear", self.group_size, self.mix_steps, self.start)

    def _explorer(self, window: int) -> int:
        explorer = math.ceil(self.start * self.group_size)
        for earlier in range(window - 1):
            steps = range(earlier * self.every + 1, (earlier + 1) * self.every + 1)
            if missing := [step for step in steps if step not in self._observed]:
                raise LookupError(f"the adaptive schedule has not observed steps {missing}")
            only, compared = (sum(column) for column in zip(*(self._observed[s] for s in steps), strict=True))
            explorer -= explorer > 0 and (compared == 0 or only < self.below * compared)
        return explorer
