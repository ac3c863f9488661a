"""Measures of diversity against closed forms, enumerations and second implementations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from math import factorial, prod

import numpy as np
import pytest

from s2l_ray.diversity.coherence import coherence, parts_of, profile_sums
from s2l_ray.diversity.correlation import Deviations, autocorrelation, within_prefix, within_problem
from s2l_ray.diversity.distinct import distinct_of, expected_distinct, ks_up_to, pair_differs
from s2l_ray.diversity.edit_distance import clusters, distances, levenshtein, mean_distance
from s2l_ray.diversity.intervals import Bootstrap
from s2l_ray.diversity.matching import match_temperature
from s2l_ray.diversity.solutions import solution_reader
from s2l_ray.errors import DataError
from s2l_ray.miniature.expressions import solution_expression
from s2l_ray.rollouts.records import Rollout, Verdict

# ---- distinct solutions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solutions", ["aabc", "aaaa", "abcd", "aab--", "-----"])
def test_distinct_at_k_is_the_mean_over_all_subsets(solutions: str):
    given = [None if s == "-" else s for s in solutions]
    ks = list(range(1, len(given) + 1))
    enumerated = [np.mean([len({*subset} - {None}) for subset in combinations(given, k)]) for k in ks]
    np.testing.assert_allclose(distinct_of(given, ks), enumerated, rtol=1e-12)


def test_distinct_at_k_is_unbiased_for_a_multinomial_policy():
    """Its mean over every outcome of n = 4 samples is what k = 2 samples hold: sum of 1 - (1 - p)^2."""
    p, n, k = np.array([0.5, 0.3, 0.2]), 4, 2
    mean = 0.0
    for counts in product(range(n + 1), repeat=3):
        if sum(counts) == n:
            chance = factorial(n) / prod(map(factorial, counts)) * prod(p**counts)
            mean += chance * expected_distinct([c for c in counts if c], n, [k])[0]
    assert mean == pytest.approx(np.sum(1 - (1 - p) ** k), rel=1e-12)


def test_two_samples_differ_as_often_as_pairs_do():
    given = ["a", "a", "b", "c", None]
    assert pair_differs(given) == pytest.approx(np.mean([x != y for x, y in combinations("aabc", 2)]))
    assert np.isnan(pair_differs(["a", None]))


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit 4 samples"):
        expected_distinct([3, 2], 4, [1])
    assert ks_up_to(12) == [1, 2, 4, 8, 12]


# ---- solutions ------------------------------------------------------------------------------------------------------

PROBLEM = "3 7 12 5 : 27"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 + 7 = 10 ; 10 + 12 = 22 ; 22 + 5 = 27 .", "12 + 5 = 17 ; 3 + 7 = 10 ; 17 + 10 = 27", True),
        ("12 - 3 = 9 ; 9 + 7 = 16 ; 16 - 5 = 11", "12 + 7 = 19 ; 3 + 5 = 8 ; 19 - 8 = 11", True),  # 12 - 3 + 7 - 5
        ("3 * 7 = 21 ; 21 - 12 = 9 ; 9 + 5 = 14", "7 * 3 = 21 ; 12 - 5 = 7 ; 21 - 7 = 14", True),  # a - (b - c)
        ("3 + 7 = 10 ; 10 + 12 = 22 ; 22 - 5 = 17", "12 - 3 = 9 ; 9 + 7 = 16 ; 16 + 5 = 21", False),  # signs
        ("12 / 3 = 4 ; 4 * 7 = 28 ; 28 + 5 = 33", "12 * 3 = 36 ; 36 * 7 = 252 ; 252 + 5 = 257", False),  # exponents
        ("3 * 7 = 21 ; 21 + 12 = 33 ; 33 - 5 = 28", "3 * 12 = 36 ; 36 - 7 = 29 ; 29 - 5 = 24", False),
        ("12 / 3 = 4 ; 4 * 7 = 28 ; 28 - 5 = 23", "12 * 7 = 84 ; 84 / 3 = 28 ; 28 - 5 = 23", True),  # (12 / 3) * 7
        ("7 - 3 = 4 ; 4 * 5 = 20 ; 20 + 12 = 32", "7 * 5 = 35 ; 35 + 12 = 47 ; 47 - 3 = 44", False),
    ],
)
def test_expressions_are_the_same_up_to_order(one: str, other: str, same: bool):
    a, b = solution_expression(one, PROBLEM), solution_expression(other, PROBLEM)
    assert a is not None and b is not None
    assert (a == b) is same


def test_an_operand_that_may_be_given_is_the_given_one():
    """5 of 12 - 7 and the given 5: both readings are the same number, and the given one is taken first."""
    read = solution_expression("12 - 7 = 5 ; 5 + 3 = 8 ; 8 * 5 = 40", PROBLEM)
    assert read == solution_expression("5 + 3 = 8 ; 12 - 7 = 5 ; 5 * 8 = 40", PROBLEM)


@pytest.mark.parametrize(
    "text", ["3 + 7 = 10 ; 11 + 12 = 23 ; 23 + 5 = 28", "3 + 7 = 10 ; 10 + 12 = 22", "3 + 8 = 11", "nothing", ""]
)
def test_what_is_no_expression_has_no_solution(text: str):
    assert solution_expression(text, PROBLEM) is None


def test_a_wrong_result_is_a_solution_that_was_tried():
    right, wrong = "3 + 7 = 10 ; 10 + 12 = 22 ; 22 + 5 = 27", "3 + 7 = 11 ; 11 + 12 = 23 ; 23 + 5 = 28"
    assert solution_expression(right, PROBLEM) == solution_expression(wrong, PROBLEM)


def rollout(text: str = "", status: str = "wrong", detail: str = "") -> Rollout:
    verdict = Verdict(status, float(status == "right"), detail)
    return Rollout("p", "learner", "m", 0, 0, np.arange(2), np.zeros(2, np.float32), text, "stop", verdict)


def test_math_solutions_are_final_answers_and_others_texts():
    math, text = solution_reader("math"), solution_reader("mine:check")
    assert math(rollout(detail=r"\dfrac{1}{2}"), "3") == math(rollout(detail=r"\frac{1}{2} "), "3")
    assert math(rollout(detail="4"), "3") != math(rollout(detail="5"), "3")
    assert math(rollout("one way", "right", "3"), "3") == math(rollout("another", "right", "6/2"), "3")
    assert math(rollout(status="unparsable", detail="no answer found"), "3") is None
    choice = solution_reader("choice")
    assert choice(rollout("so it is B", "right", "B"), "B") == choice(rollout("The answer is B.", "right", "B"), "B")
    assert choice(rollout("it is A", detail="A"), "B") == choice(rollout("A", detail="A"), "B")
    assert choice(rollout("A", detail="A"), "B") != choice(rollout("C", detail="C"), "B")
    assert text(rollout("a  b"), "") == text(rollout("a b\n"), "") != text(rollout("b a"), "")
    assert text(rollout(" "), "") is None


# ---- edit distance --------------------------------------------------------------------------------------------------


def by_table(a: Sequence[int], b: Sequence[int]) -> int:
    """Wagner and Fischer's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def test_edit_distances_are_those_of_the_table():
    short = [word for length in range(4) for word in product(range(3), repeat=length)]
    assert all(levenshtein(a, b) == by_table(a, b) for a in short for b in short)
    rng = np.random.default_rng(0)
    for _ in range(10):
        a, b = (rng.integers(0, 4, rng.integers(60, 140)).tolist() for _ in range(2))
        assert levenshtein(a, b) == by_table(a, b)


def test_distances_are_over_the_longer_and_their_mean_over_pairs():
    table = distances([[1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 4], []])
    np.testing.assert_allclose(table[0], [0, 0.25, 0, 1])
    assert mean_distance(table) == pytest.approx((0.25 + 0 + 1 + 0.25 + 1 + 1) / 6)


def test_clusters_are_no_wider_than_the_threshold():
    """0, 0.3 and 0.6 on a line: neighbours are near, but the ends are not, so no cluster has all three."""
    points = np.array([0, 0.3, 0.6])
    table = np.abs(points[:, None] - points)
    assert len(set(clusters(table, 0.4))) == 2
    assert len(set(clusters(table, 0.6))) == 1
    assert clusters(np.zeros((1, 1)), 0.5) == [1]


# ---- coherence ------------------------------------------------------------------------------------------------------


def test_coherence_by_hand():
    logprobs = [[np.array([-1.0, -3.0]), np.array([-2.0])], [np.array([-4.0, -4.0])]]
    sampled = [[np.array([-1.0, -1.0]), np.array([-1.0])], [np.array([-1.0, -1.0])]]
    found = coherence(logprobs, sampled, Bootstrap(2, seed=0))
    assert found.logprob.value == pytest.approx(-14 / 5)
    assert found.perplexity.value == pytest.approx(np.exp(14 / 5))
    assert found.divergence.value == pytest.approx(9 / 5)
    assert [part.value for part in found.profile] == pytest.approx([-(1 + 2 + 4) / 3, -(3 + 4) / 2])


def test_a_profile_divides_responses_of_any_length():
    sums = profile_sums([np.array([-1.0, -2.0, -3.0, -4.0]), np.array([-8.0]), np.zeros(0)], 2)
    np.testing.assert_allclose(sums, [[-11, -7], [3, 2]])
    assert parts_of([[np.zeros(50)]]) == 20 and parts_of([[np.zeros(0)]]) == 1


# ---- correlations ---------------------------------------------------------------------------------------------------


def deviations_of_coins(chances: np.ndarray, rollouts: int, length: int, mean: float, seed: int) -> list[Deviations]:
    """Tokens 0 and 1, of 1 with a chance of its own in each problem; the learner, at its best T, has `mean`."""
    rng = np.random.default_rng(seed)
    p = np.array([1 - mean, mean])
    entropy = -(p * np.log(p)).sum()
    problems = []
    for chance in chances:
        tokens = (rng.random((rollouts, length)) < chance).astype(int)
        problems.append(Deviations(list(tokens), [-np.log(p[row]) - entropy for row in tokens]))
    return problems


def test_a_policy_that_deviates_persistently_is_told_from_noise_at_each_token():
    """A coin of 0.3 +- 0.15 by problem: every two tokens of it correlate by 0.15^2 / (0.3 * 0.7)."""
    rng = np.random.default_rng(1)
    persistent, noise = 0.3 + 0.15 * rng.choice([-1, 1], 400), np.full(400, 0.3)
    known = 0.15**2 / (0.3 * 0.7)
    bootstrap = Bootstrap(400, seed=2, resamples=200)
    for chances, expected in ((persistent, known), (noise, 0.0)):
        problems = deviations_of_coins(chances, 8, 12, 0.3, seed=3)
        by_lag = autocorrelation(problems, [1, 5, 20], bootstrap)
        found = [by_lag[1], by_lag[5], within_problem(problems, bootstrap), within_prefix(problems, bootstrap)]
        for each in found:
            interval = each.estimate(0.999)
            assert interval.low is not None and interval.high is not None
            assert interval.low < expected < interval.high
            assert interval.high - interval.low < 0.08
        assert np.isnan(by_lag[20].value)


def test_autocorrelation_of_a_markov_chain_is_its_power():
    """x_(t+1) = rho x_t + sqrt(1 - rho^2) e has a correlation of rho^l at lag l."""
    rng, rho = np.random.default_rng(4), 0.6
    x = [rng.normal(size=(300, 8))]
    for _ in range(15):
        x.append(rho * x[-1] + np.sqrt(1 - rho**2) * rng.normal(size=(300, 8)))
    chains = np.stack(x, axis=2)
    problems = [Deviations([np.arange(16)] * 8, list(of_problem)) for of_problem in chains]
    found = autocorrelation(problems, [1, 2, 4], Bootstrap(300, seed=0, resamples=10))
    assert [found[lag].value for lag in (1, 2, 4)] == pytest.approx([rho, rho**2, rho**4], abs=0.02)


def test_the_intra_class_correlation_is_the_share_of_the_common_variance():
    """An effect of problem and position with variance 1, and noise of variance 3: 1 / 4. Lengths differ."""
    rng = np.random.default_rng(5)
    problems = []
    for _ in range(500):
        effect = rng.normal(size=10)
        lengths = rng.integers(3, 11, size=6)
        values = [effect[:n] + np.sqrt(3) * rng.normal(size=n) for n in lengths]
        problems.append(Deviations([rng.integers(0, 9, n) for n in lengths], values))
    bootstrap = Bootstrap(500, seed=0, resamples=10)
    assert within_problem(problems, bootstrap).value == pytest.approx(0.25, abs=0.02)


def test_prefixes_group_only_what_follows_the_same_tokens():
    """Rollouts 12 and 13 share the first two positions, 4 only the first: groups {1, 2, 3} and {5, 6}."""
    problem = Deviations([[1, 2], [1, 3], [4]], [np.array([1.0, 5.0]), np.array([2.0, 6.0]), np.array([3.0])])
    covariance = 3 * (1 * 2 + 1 * 3 + 2 * 3) / 3 + 2 * 5 * 6
    variance = 1 + 4 + 9 + 25 + 36
    bootstrap = Bootstrap(1, seed=0, resamples=1)
    assert within_prefix([problem], bootstrap).value == pytest.approx(covariance / variance)


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_intervals_cover_at_about_their_level():
    rng = np.random.default_rng(6)
    covered = 0
    for trial in range(200):
        interval = Bootstrap(60, seed=trial, resamples=300).mean(rng.exponential(size=60)).estimate(0.9)
        covered += interval.low < 1 < interval.high
    assert 0.82 <= covered / 200 <= 0.95


def test_differences_are_paired():
    """Problems that differ by exactly 1 have a difference without width, however different they are."""
    bootstrap = Bootstrap(20, seed=0)
    values = np.arange(20.0) ** 2
    found = (bootstrap.mean(values + 1) - bootstrap.mean(values)).estimate(0.95)
    assert (found.low, found.high) == (pytest.approx(1), pytest.approx(1))


def test_what_does_not_exist_has_no_interval():
    bootstrap = Bootstrap(3, seed=0)
    assert bootstrap.mean(np.array([np.nan, np.nan, np.nan])).estimate(0.95) is None
    assert bootstrap.mean(np.array([np.nan, 2.0, 4.0])).value == 3
    assert bootstrap.statistic(np.r_[1.0, np.full(2000, np.nan)]).estimate(0.95) is None


# ---- matching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [0.18, 0.45])
def test_the_match_is_found_in_either_direction(wanted: float):
    """pass@1 = 0.3 / T: the match is 0.3 / wanted."""
    match = match_temperature(lambda t: min(1.0, 0.3 / t), wanted, start=1.0, tolerance=0.002)
    assert match.within
    assert match.temperature == pytest.approx(0.3 / wanted, rel=0.02)
    assert match.pass_at_1 == match.trials[match.temperature]


def test_no_match_is_an_error_and_no_closer_one_is_said():
    with pytest.raises(DataError, match="no temperature between makes it 90.0%"):
        match_temperature(lambda t: 0.3 / (1 + t), 0.9, start=1.0, tolerance=0.01)
    loose = match_temperature(lambda t: float(t < 1.6), 0.5, start=1.0, tolerance=0.01, most=4)
    assert not loose.within and len(loose.trials) == 4
