"""A schedule of your own: the explorer's share falls in stairs.

Run it from the directory above:

    s2l train quickstart schedule.kind=examples.schedule:stairs

`s2l_ray/schedule.py` says what a schedule function gets and returns.
"""

from __future__ import annotations

from fractions import Fraction

STAIRS = 4


def stairs(step: int, mix_steps: int, start: Fraction) -> Fraction:
    """`start` in the first of STAIRS equal parts of the mixed steps, then less by the same amount in each; 0 after."""
    if step > mix_steps:
        return Fraction(0)
    stair = (step - 1) * STAIRS // mix_steps
    return start * (1 - Fraction(stair, STAIRS))
