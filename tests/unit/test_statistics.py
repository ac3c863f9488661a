from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from s2l_ray.statistics import (
    crossover_k,
    crossover_of,
    holm,
    maj_at_every_k,
    mean_interval,
    paired_difference,
    pass_at_every_k,
    pass_at_k,
    resampled_means,
    sign_flip_p_value,
)


@pytest.mark.parametrize("samples", [1, 2, 7, 64, 1000])
def test_pass_at_every_k_is_the_exact_one(samples):
    correct = sorted({0, 1, samples // 3, samples - 1, samples})
    table = pass_at_every_k(samples, correct)
    assert table.shape == (len(correct), samples)
    for row, c in zip(table, correct, strict=True):
        exact = [pass_at_k(samples, c, k) for k in range(1, samples + 1)]
        assert row == pytest.approx(exact, rel=1e-12, abs=samples * 2.3e-16)


@pytest.mark.parametrize(("samples", "correct"), [(0, []), (4, [5]), (4, [-1])])
def test_pass_at_every_k_refuses_impossible_counts(samples, correct):
    with pytest.raises(ValueError, match="need n >= 1"):
        pass_at_every_k(samples, correct)


def majority_by_enumeration(answers: list[str | None], k: int) -> Fraction:
    """Votes of every subset; the right answer is "r"."""
    total, subsets = Fraction(0), list(combinations(answers, k))
    for subset in subsets:
        votes = {a: subset.count(a) for a in subset if a is not None}
        best = [a for a, count in votes.items() if count == max(votes.values())]
        total += Fraction("r" in best, len(best)) if best else 0
    return total / len(subsets)


@pytest.mark.parametrize(
    "answers",
    [
        ["r"],
        [None],
        ["a"],
        ["r", "a"],
        ["r", "r", "a", "a", "b", None],
        ["r", "r", "r", "a", "a", "a", "b", "b", "b"],
        ["r", "a", "b", "c", "d", None, None],
        ["r", "r", "r", "r", "a", "a", "b", "c", None, None],
        ["a", "a", "r", "b", "b", "r", "c", "a", "r"],
    ],
)
def test_maj_at_k_is_the_share_of_subsets_whose_vote_is_right(answers):
    wrong = [answers.count(a) for a in sorted({a for a in answers if a not in ("r", None)})]
    values = maj_at_every_k(len(answers), answers.count("r"), wrong)
    assert values == pytest.approx([float(majority_by_enumeration(answers, k)) for k in range(1, len(answers) + 1)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["r", "a", "b", None]), min_size=1, max_size=9))
def test_maj_at_k_is_the_share_for_any_answers(answers):
    wrong = [answers.count(a) for a in ("a", "b")]
    values = maj_at_every_k(len(answers), answers.count("r"), wrong)
    assert values == pytest.approx([float(majority_by_enumeration(answers, k)) for k in range(1, len(answers) + 1)])


def test_maj_at_k_by_hand():
    # Two right and two wrong of one kind: k=2 is right with 1/6 (both right) plus 4/6 ties at 1/2.
    assert maj_at_every_k(4, 2, [2]) == pytest.approx([0.5, 0.5, 0.5, 0.5])
    # Two right, two different wrong ones: k=3 is right if both right ones are in it (2/4), tied three ways in 2/4.
    assert maj_at_every_k(4, 2, [1, 1])[2] == pytest.approx(1 / 2 + 1 / 2 / 3)
    # All of them vote: the largest group wins, whatever the rest do.
    assert maj_at_every_k(7, 3, [2, 2])[-1] == 1.0
    assert maj_at_every_k(7, 2, [3, 2])[-1] == 0.0


def test_maj_at_1_is_pass_at_1_for_many_samples_and_stays_within_bounds():
    values = maj_at_every_k(1500, 500, [400, 300, 1, 1])
    assert values[0] == pytest.approx(1 / 3)
    assert values[-1] == pytest.approx(1.0)
    assert (values > 0).all() and (values <= 1 + 1e-12).all()


@pytest.mark.parametrize(
    ("samples", "right", "wrong"), [(0, 0, []), (4, -1, []), (4, 1, [4]), (4, 1, [-1]), (20000, 1, [])]
)
def test_maj_at_k_refuses_counts_that_do_not_add_up(samples, right, wrong):
    with pytest.raises(ValueError, match="do not add up"):
        maj_at_every_k(samples, right, wrong)


def test_resampled_means_have_the_moments_of_a_bootstrap():
    values = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 3.0], [5.0, 3.0]])
    means = resampled_means(values, seed=2, resamples=50_000)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.02)
    # The variance of a resampled mean is the variance over problems (with n, not n - 1) over their number.
    assert means.var(axis=0) == pytest.approx(values.var(axis=0) / 4, rel=0.03)


def test_intervals_cover_the_truth_at_their_nominal_rate():
    # Skewed values: exponential, 60 problems, 90 % intervals. The standard error of the rate over 300 repetitions is
    # 1.7 percentage points; the bootstrap itself is a little short for skewed values.
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(300):
        values = rng.exponential(size=(60, 1))
        (estimate,) = mean_interval(values, 0.9, seed, resamples=500)
        covered += estimate.low <= 1.0 <= estimate.high
    assert 0.84 <= covered / 300 <= 0.95


def test_a_paired_difference_has_the_interval_of_the_differences():
    rng = np.random.default_rng(1)
    easy = rng.uniform(size=(200, 1))
    second = easy + 0.1 + 0.05 * rng.standard_normal((200, 1))
    (estimate,) = paired_difference(easy, second, 0.95, seed=3)
    half = 1.96 * float((second - easy).std()) / np.sqrt(200)
    assert estimate.value == pytest.approx(float((second - easy).mean()))
    assert (estimate.low, estimate.high) == pytest.approx((estimate.value - half, estimate.value + half), abs=0.0015)


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        (np.zeros((0, 1)), 0.9, "with a problem"),
        (np.zeros(3), 0.9, "matrix"),
        (np.zeros((2, 1)), 1.0, "between 0 and 1"),
    ],
)
def test_an_interval_of_nothing_is_refused(values, confidence, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values, confidence, 0)
    with pytest.raises(ValueError):
        paired_difference(np.zeros((2, 1)), np.zeros((3, 1)), 0.9, 0)


def test_an_exact_sign_flip_p_value_is_the_share_of_all_signs():
    values = [0.5, -0.1, 0.3, 0.2, 0.0, 0.7]
    kept = [v for v in values if v]
    sums = [abs(sum(s * v for s, v in zip(signs, kept, strict=True))) for signs in product((1, -1), repeat=len(kept))]
    expected = sum(total >= sum(kept) - 1e-9 for total in sums) / len(sums)
    assert sign_flip_p_value(values, seed=0) == expected
    assert sign_flip_p_value([1.0] * 5, seed=0) == 2 / 32
    assert sign_flip_p_value([0.1] * 3 + [-0.1] * 3, seed=0) == 1.0
    assert sign_flip_p_value([0.0, 0.0], seed=0) == 1.0


def test_a_drawn_sign_flip_p_value_agrees_with_the_exact_one():
    values = np.random.default_rng(3).normal(0.35, 1.0, size=16)
    exact = sign_flip_p_value(values, seed=0)
    # A 17th difference too small to matter makes it draw.
    drawn = sign_flip_p_value([*values, 1e-9], seed=1)
    assert 0.02 < exact < 0.9
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))
    assert sign_flip_p_value(np.ones(100), seed=0) == 1 / 20_001


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf")]])
def test_a_test_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="at least one"):
        sign_flip_p_value(values, seed=0)


def test_p_values_are_uniform_when_there_is_no_effect():
    rng = np.random.default_rng(8)
    p = [sign_flip_p_value(rng.standard_normal(40), seed, draws=999) for seed in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_planted_effect_is_found_with_the_planned_power():
    effect, deviation = 0.5, 1.0
    pairs = 34  # Cohen's table: d = 0.5, alpha 0.05 two-sided, power 0.80
    rng = np.random.default_rng(4)
    found = sum(sign_flip_p_value(rng.normal(effect, deviation, pairs), seed, draws=999) <= 0.05 for seed in range(400))
    # Three standard errors of a rate of 0.8 over 400 repetitions are 6 percentage points.
    assert 0.74 <= found / 400 <= 0.88


def test_holm_by_hand():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2 -> raised to 0.06, 0.04 x 1 -> raised to 0.06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_crossover_by_hand():
    assert crossover_k(np.array([-0.2, -0.1, 0.1, 0.3])) == pytest.approx(2.5)
    assert crossover_k(np.array([-0.3, 0.1])) == pytest.approx(1.75)
    assert crossover_k(np.array([-0.3, 0.0, 0.1])) == pytest.approx(2.0)
    assert crossover_k(np.array([0.3, -0.1])) == 1.0
    assert crossover_k(np.array([-0.3, -0.1, 0.0])) is None


def curves(shares: list[float], samples: int) -> np.ndarray:
    return pass_at_every_k(samples, [round(share * samples) for share in shares])


def test_the_interval_of_a_crossover_holds_it():
    # The leader solves 40 % of the problems always and the rest never; the challenger solves every problem one time in
    # eight: 0.4 = 1 - (7/8)^k at k = 3.8 with replacement.
    leader = curves([1.0] * 80 + [0.0] * 120, 64)
    challenger = curves([1 / 8] * 200, 64)
    found = crossover_of(leader, challenger, 0.95, seed=0)
    assert found.k == pytest.approx(3.7, abs=0.2)
    assert found.low < found.k < found.high < 6
    assert found.share == 1.0


def test_a_crossover_beyond_the_samples_is_none_and_so_is_that_end_of_its_interval():
    leader = curves([1.0] * 12 + [0.0] * 13, 8)
    never = crossover_of(leader, curves([0.25] * 10 + [0.0] * 15, 8), 0.95, seed=0)
    assert (never.k, never.high) == (None, None) and never.share < 0.5
    at_the_end = crossover_of(leader, curves([0.125] * 13 + [0.0] * 12, 8), 0.95, seed=0)
    assert at_the_end.low is not None and at_the_end.high is None
    assert 0.2 < at_the_end.share < 0.8


def test_a_resample_in_which_the_challenger_leads_from_the_start_has_no_crossover_but_counts_as_one_at_1():
    leader = curves([0.5] * 20 + [0.0] * 20, 4)
    challenger = curves([0.25] * 38 + [0.0] * 2, 4)  # pass@1 0.2375 against 0.25, pass@2 0.475 against 0.417
    found = crossover_of(leader, challenger, 0.9, seed=0)
    assert found.k == pytest.approx(1 + 0.0125 / (0.0125 + 0.475 - 0.41667), abs=0.01)
    # In about every third resample the leader's 20 problems are drawn so seldom that it does not lead at all.
    assert found.low == 1.0 and 0.5 < found.share < 0.85


def test_a_crossover_needs_the_same_problems():
    with pytest.raises(ValueError, match="same problems twice"):
        crossover_of(np.zeros((2, 4)), np.zeros((3, 4)), 0.9, 0)
