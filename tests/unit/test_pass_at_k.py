from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.statistics.pass_at_k import evaluate_counts, paired_change, pass_at_k


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [
        (4, 1, 1, 0.25),
        (4, 1, 2, 0.5),  # C(3,2)/C(4,2) = 3/6
        (4, 2, 2, 5 / 6),  # C(2,2)/C(4,2) = 1/6
        (4, 2, 3, 1.0),  # two wrong ones cannot fill three places
        (16, 3, 8, 0.9),  # C(13,8)/C(16,8) = 1287/12870
        (5, 0, 5, 0.0),
        (5, 5, 1, 1.0),
    ],
)
def test_pass_at_k_by_hand(samples, correct, k, expected):
    assert pass_at_k(samples, correct, k) == expected


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples):
    for correct in range(samples + 1):
        for k in range(1, samples + 1):
            subsets = list(combinations(range(samples), k))
            share = Fraction(sum(any(i < correct for i in s) for s in subsets), len(subsets))
            assert pass_at_k(samples, correct, k) == float(share)


@given(st.data())
def test_pass_at_k_is_exact_for_many_samples(data):
    samples = data.draw(st.integers(1, 3000))
    correct = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    assert pass_at_k(samples, correct, k) == float(1 - Fraction(comb(samples - correct, k), comb(samples, k)))


@given(st.integers(2, 40), st.data())
def test_pass_at_k_grows_with_k_and_with_right_answers(samples, data):
    correct = data.draw(st.integers(0, samples - 1))
    k = data.draw(st.integers(1, samples - 1))
    value = pass_at_k(samples, correct, k)
    assert 0 <= value <= pass_at_k(samples, correct, k + 1) <= 1
    assert value < pass_at_k(samples, correct + 1, k) or value == 1


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_impossible_counts_are_refused(samples, correct, k):
    with pytest.raises(ValueError, match="need 1 <= k <= n"):
        pass_at_k(samples, correct, k)


def test_mean_over_problems_by_hand():
    estimates, intervals = evaluate_counts([0, 1, 2, 4], samples=4, k=(1, 2), confidence=0.95, seed=0)
    assert estimates[1] == pytest.approx((0 + 1 + 2 + 4) / 16)
    assert estimates[2] == pytest.approx((0 + 1 / 2 + 5 / 6 + 1) / 4)
    for k in (1, 2):
        assert 0 <= intervals[k][0] < estimates[k] < intervals[k][1] <= 1


def test_interval_agrees_with_a_loop_that_draws_problems():
    correct, samples = [0] * 40 + [3] * 30 + [8] * 30, 8
    _, intervals = evaluate_counts(correct, samples, (4,), confidence=0.9, seed=3)
    values = np.array([pass_at_k(samples, c, 4) for c in correct])
    rng = np.random.default_rng(11)
    means = [rng.choice(values, size=len(values)).mean() for _ in range(4000)]
    assert intervals[4] == pytest.approx((np.quantile(means, 0.05), np.quantile(means, 0.95)), abs=0.01)


def test_interval_covers_the_truth_as_often_as_it_says():
    # Problems of difficulty uniform in [0, 1]: the true pass@1 is 1/2.
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        correct = rng.binomial(8, rng.uniform(size=60))
        low, high = evaluate_counts(correct, 8, (1,), 0.9, seed)[1][1]
        covered += low <= 0.5 <= high
    assert 0.85 <= covered / 200 <= 0.95


def test_interval_is_seeded_and_widens_with_confidence():
    correct = [0, 1, 2, 3, 4, 4, 0, 1]
    narrow = evaluate_counts(correct, 4, (1,), 0.5, seed=1)
    wide = evaluate_counts(correct, 4, (1,), 0.99, seed=1)
    assert narrow == evaluate_counts(correct, 4, (1,), 0.5, seed=1)
    assert wide[1][1][0] < narrow[1][1][0] < narrow[1][1][1] < wide[1][1][1]


def test_equal_problems_have_an_interval_without_width():
    assert evaluate_counts([2, 2, 2], 4, (1,), 0.95, seed=0) == ({1: 0.5}, {1: (0.5, 0.5)})


@pytest.mark.parametrize(("correct", "confidence"), [([], 0.95), ([1], 0.0), ([1], 1.0), ([9], 0.95)])
def test_impossible_evaluations_are_refused(correct, confidence):
    with pytest.raises(ValueError):
        evaluate_counts(correct, 4, (1,), confidence, seed=0)


def test_paired_change_by_hand():
    # 2 of 4 right before; half of the problems 3 of 4 after: pass@1 rises by 0.25 on half of them.
    change, ci = paired_change([2] * 40, [3] * 20 + [2] * 20, samples=4, k=[1], confidence=0.95, seed=1)
    assert change == {1: 0.125}
    # The change is 0.25 x a binomial share of 40 problems: its standard error is 0.25 * sqrt(0.25 / 40) = 0.0198.
    assert ci[1] == pytest.approx((0.125 - 1.96 * 0.0198, 0.125 + 1.96 * 0.0198), abs=0.01)


def test_paired_change_is_narrower_than_two_independent_intervals():
    hard_and_easy = [0] * 50 + [8] * 50
    better = [1] * 50 + [8] * 50
    change, ci = paired_change(hard_and_easy, better, samples=8, k=[1, 8], confidence=0.95, seed=1)
    assert change[1] == pytest.approx(1 / 16) and change[8] == pytest.approx(0.5)
    assert 0.03 < ci[1][0] < ci[1][1] < 0.1
    unpaired = evaluate_counts(better, 8, [1], 0.95, 1)[1][1]
    assert ci[1][1] - ci[1][0] < 0.5 * (unpaired[1] - unpaired[0])


def test_draws_stay_those_of_published_figures():
    """One draw for each count of right answers, also where counts (2 and 4) or pairs of them have the same estimate."""
    _, interval = evaluate_counts([0, 1, 2, 4] * 25, samples=4, k=(3,), confidence=0.95, seed=7)
    assert interval[3] == pytest.approx((0.605, 0.765), abs=1e-12)
    _, interval = paired_change([0, 1, 2, 4] * 25, [1, 2, 1, 4] * 25, samples=4, k=(2,), confidence=0.95, seed=7)
    assert interval[2] == pytest.approx((0.19 / 3, 0.56 / 3), abs=1e-12)


def test_paired_change_needs_the_same_problems():
    with pytest.raises(ValueError, match="same problems twice, got 2 and 3"):
        paired_change([1, 2], [1, 2, 3], 4, [1], 0.95, 1)
