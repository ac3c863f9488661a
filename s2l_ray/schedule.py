"""How many of a group's G rollouts the explorer samples at each step, in exact integers.

Algorithm 1 of arXiv 2605.30789: alpha_i = 1 - (i - 1) / (T_mix - 1) for i <= T_mix, G_w = ceil(alpha_i * G).
A float ceil is off by one for some G (G = 7, T_mix = 8, i = 7: alpha * G is exactly 1, floats say
1.0000000000000002), so every alpha here is a Fraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

ScheduleKind = Literal["linear", "abrupt", "cosine", "constant", "off"]


@dataclass(frozen=True)
class Share:
    """The split of one step's groups."""

    step: int
    alpha: Fraction
    explorer: int
    """G_w."""
    learner: int
    """G_s = G - G_w."""


@dataclass(frozen=True)
class Schedule:
    """G_w and G_s for steps 1..T.

    kind:
        linear    the paper's: falls from `start` at step 1 to 0 at step T_mix.
        cosine    the same end points, half a cosine between them (rounded to a multiple of 1/2**20, so still exact).
        abrupt    `start` for steps 1..T_mix, then 0.
        constant  `start` at every step.
        off       plain GRPO: never the explorer.
    T_mix = 1 means step 1 at `start`, then on-policy (the formula would divide by zero).
    """

    kind: ScheduleKind
    group_size: int
    mix_steps: int
    start: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.group_size < 1 or self.mix_steps < 1 or not 0 <= self.start <= 1:
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
