"""How many of a group's G rollouts the explorer samples at each step, in exact integers.

Algorithm 1 of arXiv 2605.30789: alpha_i = 1 - (i - 1) / (T_mix - 1) for i <= T_mix, G_w = ceil(alpha_i * G).
A float ceil is off by one for some G (G = 7, T_mix = 8, i = 7: alpha * G is exactly 1, floats say
1.0000000000000002), so every alpha here is a Fraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from s2l_ray.kinds import ScheduleKind


@dataclass(frozen=True)
class Share:
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
    """G_w and G_s for steps 1..T.

    kind:
        linear    the paper's: falls from `start` at step 1 to 0 at step T_mix.
        cosine    the same end points, half a cosine between them (rounded to a multiple of 1/2**20, so still exact).
        abrupt    `start` for steps 1..T_mix, then 0.
        constant  `start` at every step.
        off       plain GRPO: never the explorer.
    (adaptive is `AdaptiveSchedule`.)
    T_mix = 1 means step 1 at `start`, then on-policy (the formula would divide by zero).
    """

    kind: ScheduleKind
    group_size: int
    mix_steps: int
    start: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.kind == "adaptive" or self.group_size < 1 or self.mix_steps < 1 or not 0 <= self.start <= 1:
            raise ValueError(f"impossible schedule {self}")

    def alpha(self, step: int) -> Fraction:
        """The explorer's share at `step` (1-based), in [0, 1]."""
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        if self.kind == "off":
            return Fraction(0)
        if self.kind == "constant":
            return self.start
        if step > self.mix_steps:
            return Fraction(0)
        if self.kind == "abrupt" or self.mix_steps == 1:
            return self.start
        progress = Fraction(step - 1, self.mix_steps - 1)
        if self.kind == "cosine":
            progress = Fraction(round((1 - math.cos(math.pi * progress)) / 2 * 2**20), 2**20)
        return self.start * (1 - progress)

    def share(self, step: int) -> Share:
        alpha = self.alpha(step)
        explorer = math.ceil(alpha * self.group_size)
        return Share(step, alpha, explorer, self.group_size - explorer)

    def observe(self, step: int, explorer_only: int, compared: int) -> None:
        """What a step measured; it changes nothing here."""

    def nominal(self) -> Schedule:
        """The shares that can be counted on before the run: these."""
        return self


class AdaptiveSchedule:
    """Lets the explorer's share fall when the explorer no longer solves what the learner does not.

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
        """What a step measured.

        Args:
            step: 1-based.
            explorer_only: groups with a right rollout of the explorer's and none of the learner's.
            compared: groups that both sources sampled.
        """
        self._observed[step] = (explorer_only, compared)

    def share(self, step: int) -> Share:
        """As `Schedule.share`.

        Raises:
            LookupError: a step that it depends on, at least `every` steps back, has not been observed.
        """
        explorer = 0 if step >= self.mix_steps else self._explorer((step - 1) // self.every)
        return Share(step, Fraction(explorer, self.group_size), explorer, self.group_size - explorer)

    def nominal(self) -> Schedule:
        """What plans count on: a linear fall over the same steps. The real one differs on the way, and ends with it."""
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
