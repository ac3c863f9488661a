from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.schedule import Schedule


def explorer_counts(schedule: Schedule, steps: int) -> list[int]:
    return [schedule.share(step).explorer for step in range(1, steps + 1)]


def test_linear_is_the_papers_by_hand():
    # G = 16, T_mix = 8: alpha = 1, 6/7, 5/7, ..., 0; times 16 and up.
    assert explorer_counts(Schedule("linear", 16, 8), 10) == [16, 14, 12, 10, 7, 5, 3, 0, 0, 0]
    # G = 8, T_mix = 4: alpha = 1, 2/3, 1/3, 0; 8, 5.33, 2.67, 0.
    assert explorer_counts(Schedule("linear", 8, 4), 6) == [8, 6, 3, 0, 0, 0]


def test_ceil_is_exact_where_floats_are_off_by_one():
    # alpha_7 = 1 - 6/7 = 1/7, times 7 is exactly 1; in floats it is 1.0000000000000002, whose ceil is 2.
    assert explorer_counts(Schedule("linear", 7, 8), 8) == [7, 6, 5, 4, 3, 2, 1, 0]


def test_mix_of_one_step_is_one_explorer_step():
    assert explorer_counts(Schedule("linear", 8, 1), 3) == [8, 0, 0]


def test_other_kinds_by_hand():
    assert explorer_counts(Schedule("abrupt", 8, 3), 5) == [8, 8, 8, 0, 0]
    assert explorer_counts(Schedule("constant", 8, 3, Fraction("0.3")), 5) == [3] * 5
    assert explorer_counts(Schedule("off", 8, 3), 3) == [0] * 3
    assert explorer_counts(Schedule("linear", 8, 5, Fraction("0.5")), 6) == [4, 3, 2, 1, 0, 0]
    # 0.3 * 8 = 2.4
    assert explorer_counts(Schedule("abrupt", 8, 2, Fraction("0.3")), 3) == [3, 3, 0]
    # half of 1, 0.854, 0.5, 0.146, 0; times 8
    assert explorer_counts(Schedule("cosine", 8, 5, Fraction("0.5")), 6) == [4, 4, 2, 1, 0, 0]
    # cosine over 5 steps: alpha = 1, 0.854, 0.5, 0.146, 0.
    assert explorer_counts(Schedule("cosine", 8, 5), 6) == [8, 7, 4, 2, 0, 0]


@given(group=st.integers(1, 64), mix=st.integers(2, 50), tenths=st.integers(0, 10))
def test_linear_equals_whole_number_arithmetic(group: int, mix: int, tenths: int):
    # ceil(G * tenths * (T_mix - i) / (10 * (T_mix - 1))) as a floor division of integers.
    expected = [-(-group * tenths * (mix - i) // (10 * (mix - 1))) for i in range(1, mix + 1)]
    assert explorer_counts(Schedule("linear", group, mix, Fraction(tenths, 10)), mix) == expected


@given(
    group=st.integers(1, 64),
    mix=st.integers(1, 50),
    kind=st.sampled_from(["linear", "abrupt", "cosine", "constant", "off"]),
    step=st.integers(1, 80),
)
def test_shares_add_up_and_never_rise(group: int, mix: int, kind: str, step: int):
    schedule = Schedule(kind, group, mix)
    now, then = schedule.share(step), schedule.share(step + 1)
    assert now.explorer + now.learner == group and min(now.explorer, now.learner) >= 0
    assert then.explorer <= now.explorer


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError):
        Schedule("linear", 8, 0)
    with pytest.raises(ValueError):
        Schedule("linear", 8, 4).share(0)
