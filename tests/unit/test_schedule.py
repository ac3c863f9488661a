from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from s2l_ray.config import ScheduleConfig
from s2l_ray.schedule import AdaptiveSchedule, Schedule


def explorer_counts(schedule: Schedule, steps: int) -> list[int]:
    return [schedule.split(step).explorer for step in range(1, steps + 1)]


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
    now, then = schedule.split(step), schedule.split(step + 1)
    assert now.explorer + now.learner == group and min(now.explorer, now.learner) >= 0
    assert then.explorer <= now.explorer


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError):
        Schedule("linear", 8, 0)
    with pytest.raises(ValueError):
        Schedule("linear", 8, 4).split(0)


# ---- adaptive -----------------------------------------------------------------------------------------------------


def adaptive(**changes) -> AdaptiveSchedule:
    settings = {"group_size": 4, "mix_steps": 12, "start": Fraction(1), "every": 2, "below": Fraction(1, 4)}
    return AdaptiveSchedule(**(settings | changes))


def test_adaptive_by_hand():
    schedule = adaptive()
    # Windows of two steps: (1, 2), (3, 4), ... The first two have all of G = 4.
    assert [schedule.split(step).explorer for step in (1, 2, 3, 4)] == [4, 4, 4, 4]
    # Window 0 compared nothing (the learner sampled nothing), so window 2 has one less; likewise window 3.
    for step in (1, 2, 3, 4):
        schedule.observe(step, 0, 0)
    assert [schedule.split(step).explorer for step in (5, 6, 7, 8)] == [3, 3, 2, 2]
    # Window 2 (steps 5, 6): 3 + 1 of 8 + 8 groups are exactly a quarter, not below it: window 4 stays at 2.
    schedule.observe(5, 3, 8)
    schedule.observe(6, 1, 8)
    assert [schedule.split(step).explorer for step in (9, 10)] == [2, 2]
    # Window 3 (steps 7, 8): 3 of 16 are below: window 5 has 1. From T_mix = 12 on there is none.
    schedule.observe(7, 3, 8)
    schedule.observe(8, 0, 8)
    assert [schedule.split(step).explorer for step in (11, 12, 13)] == [1, 0, 0]
    assert schedule.split(11).alpha == Fraction(1, 4) and schedule.split(11).learner == 3


def test_adaptive_does_not_guess():
    schedule = adaptive()
    schedule.observe(1, 0, 0)
    with pytest.raises(LookupError, match=r"has not observed steps \[2\]"):
        schedule.split(5)
    assert schedule.split(12).explorer == 0  # from T_mix on nothing needs to be known


@given(
    observations=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted), min_size=40, max_size=40),
    group_size=st.integers(1, 16),
    every=st.integers(1, 5),
)
def test_adaptive_never_rises_is_never_negative_and_follows_what_was_observed(observations, group_size, every):
    first, again = (adaptive(group_size=group_size, every=every, mix_steps=30) for _ in range(2))
    for step, (only, compared) in enumerate(observations, start=1):
        first.observe(step, only, compared)
    counts = [first.split(step).explorer for step in range(1, 41)]
    assert counts[0] == group_size and counts[-1] == 0
    assert all(
        0 <= b <= a <= b + (group_size if step == 29 else 1)
        for step, (a, b) in enumerate(itertools.pairwise(counts), 1)
    )
    # A share needs nothing from the `every` steps before it: those may still be running while it is sampled ahead.
    for step in range(1, 41):
        assert again.split(step).explorer == counts[step - 1]
        if step > every:
            again.observe(step - every, *observations[step - every - 1])


def test_adaptive_settings():
    built = ScheduleConfig(kind="adaptive", steps=20, mix_steps=10, adapt_every=3, adapt_below=0.3).build(8)
    assert (built.group_size, built.mix_steps, built.every, built.below) == (8, 10, 3, Fraction(3, 10))
    assert built.nominal() == Schedule("linear", 8, 10)
    with pytest.raises(ValidationError, match="need kind: adaptive, not linear"):
        ScheduleConfig(adapt_every=3)
