"""The explorer's schedule."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated

from s2l_ray.config.section import AfterValidator, Fractional, Positive, Section, YamlWord, model_validator
from s2l_ray.schedule import ADAPTIVE, SCHEDULES, AdaptiveSchedule, Schedule


class ScheduleConfig(Section):
    """The length of the run, and the explorer's share of each step."""

    kind: Annotated[str, YamlWord, AfterValidator(SCHEDULES.checked)] = "linear"
    """How the explorer's share alpha_i falls over the steps i = 1, 2, ... Of every group ceil(alpha_i * group_size)
    rollouts are the explorer's and the rest the learner's. With u = (i - 1) / (mix_steps - 1):

    - `linear` (the paper's): start * (1 - u) for i <= mix_steps, then 0;
    - `cosine`: start * (1 + cos(pi * u)) / 2 for i <= mix_steps, then 0 (the factor of start in units of 2**-20);
    - `abrupt`: start for i <= mix_steps, then 0;
    - `constant`: start at every step;
    - `off`: 0 at every step, which is plain GRPO;
    - `adaptive`: starts like linear and loses one rollout per group after every adapt_every steps in which the explorer
      alone solved fewer than adapt_below of the groups; 0 from mix_steps on (s2l_ray/schedule.py has the details);
    - your own `module:function`, which is called as function(step, mix_steps, start) and returns alpha_i, which must
      not rise (examples/schedule.py is one).

    With mix_steps = 1, linear, cosine and abrupt are at start in the first step and at 0 in all others."""
    steps: Positive = 60
    """T: number of steps of the run."""
    mix_steps: Positive = 30
    """T_mix: the step at which linear and cosine reach 0, and the last step of abrupt with the explorer."""
    start: Fractional = 1.0
    """alpha_1: the explorer's share of a group at step 1. Below 1 the learner takes part from the start."""
    adapt_every: Positive | None = None
    """adaptive: number of steps between decisions; default 2."""
    adapt_below: Fractional | None = None
    """adaptive: share of the groups that the explorer alone must solve to keep its share; default 0.1."""

    @model_validator(mode="after")
    def _mix_within_run(self) -> ScheduleConfig:
        if self.mix_steps > self.steps:
            raise ValueError(f"mix_steps (T_mix = {self.mix_steps}) must not exceed steps (T = {self.steps})")
        return self

    @model_validator(mode="after")
    def _adaptive_keys(self) -> ScheduleConfig:
        if self.kind != ADAPTIVE and (self.adapt_every, self.adapt_below) != (None, None):
            raise ValueError(f"adapt_every and adapt_below need kind: adaptive, not {self.kind}")
        return self

    @property
    def adapt_window(self) -> int:
        """Number of steps between decisions of an adaptive schedule."""
        return self.adapt_every or 2

    def build(self, group_size: int) -> Schedule | AdaptiveSchedule:
        """The schedule of a run with groups of this size.

        Raises:
            ConfigError: a user's own schedule cannot be imported, raises something, or its values are impossible.
        """
        start = Fraction(str(self.start))
        if self.kind == ADAPTIVE:
            below = Fraction("0.1") if self.adapt_below is None else Fraction(str(self.adapt_below))
            return AdaptiveSchedule(group_size, self.mix_steps, start, self.adapt_window, below)
        schedule = Schedule(self.kind, group_size, self.mix_steps, start)
        if not SCHEDULES.is_built_in(self.kind):
            schedule.check(self.steps)
        return schedule
