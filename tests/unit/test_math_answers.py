from __future__ import annotations

import itertools
from collections import Counter
from typing import get_args

import pytest

from s2l_ray.kinds import ExtractionLevel
from s2l_ray.tasks import math_answers
from s2l_ray.tasks.comparison import _plain, meanings_equal
from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.math_answers import check_math
from tests.support.latex_fuzz import pairs
from tests.support.paths import SHARED_DATA

FORMS = (r"So it is \boxed{%s}.", "2 + 2 = 4. The answer is %s.", "2 + 2 = 4\n#### %s")


@pytest.mark.parametrize(
    "response", ["", "I give up.", r"\boxed{\frac{1}{\sqrt}}", r"\boxed{)(}", r"\boxed{x", "#### " + "7" * 2000]
)
def test_unparsable(response):
    verdict = check_math(response, "5", "")
    assert (verdict.status, verdict.reward) == ("unparsable", 0.0)


@pytest.mark.parametrize(("response", "status"), [(r"\boxed{5 + x}", "right"), ("the answer is x - 5.", "wrong")])
def test_verdict(response, status):
    verdict = check_math(response, "x+5", "question")
    assert (verdict.status, verdict.reward) == (status, float(status == "right"))
    assert verdict.detail in ("5 + x", "x - 5")


def test_no_random_answer_raises_and_lenient_pays_what_strict_pays() -> None:
    for response, gold in pairs(2_500, seed=16):
        strict, lenient = (check_math(response, gold, extract=level) for level in get_args(ExtractionLevel))
        assert strict.reward <= lenient.reward
        assert "cannot be compared" not in strict.detail + lenient.detail, (response, gold)


@pytest.mark.parametrize(("file", "stride"), [("gsm8k_test.jsonl", 5), ("gsm8k_train.jsonl", 20), ("math500.jsonl", 3)])
def test_gold_answers_are_right_and_those_of_other_rows_wrong(file, stride):
    if not (SHARED_DATA / file).is_file():
        pytest.skip(f"{SHARED_DATA / file} is not here; set S2L_SHARED_DATA")
    problems = load_problems(SHARED_DATA / file).problems[::stride]
    own = Counter(check_math(form % p.answer, p.answer, p.question).status for p in problems for form in FORMS)
    assert own == {"right": 3 * len(problems)}
    different = [(p.answer, q.answer) for p, q in itertools.pairwise(problems) if p.answer != q.answer]
    other = Counter(check_math(form % theirs, gold).status for gold, theirs in different for form in FORMS)
    assert other == {"wrong": 3 * len(different)}


@pytest.mark.parametrize("name", ["gsm8k_test", "gsm8k_train", "math500", "olympiadbench", "aime24", "aime25"])
def test_every_gold_answer_is_read_and_means_itself(name):
    """Without a look at the texts, which are the same."""
    if not (file := SHARED_DATA / f"{name}.jsonl").is_file():
        pytest.skip(f"{file} is not here; set S2L_SHARED_DATA")
    answers = {problem.answer for problem in load_problems(file).problems}
    assert [answer for answer in sorted(answers) if meanings_equal(_plain(answer), _plain(answer)) is not True] == []


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        (r"\boxed{2^{2024}}", "2^{2025}"),
        (r"\boxed{3^{2025}}", "2^{2025}"),
        (r"\boxed{\binom{2024}{1012}}", "2^{2025}"),
        (r"\boxed{2^{5000}}", r"\infty"),
        (r"\boxed{9^{9^{9^{9}}}}", "9^{9^{9}}"),
        (r"\boxed{(10^{10^{10}})!}", "10^{10^{10}}"),
    ],
)
def test_numbers_that_no_float_holds_are_wrong_and_raise_nothing(response, gold):
    assert check_math(response, gold).status == "wrong"


def test_whatever_a_comparison_raises_is_unparsable_and_says_what_was_raised(monkeypatch):
    def broken(gold, found, question):
        raise OverflowError("too large")

    monkeypatch.setattr(math_answers, "answers_equal", broken)
    verdict = check_math(r"\boxed{5}", "5")
    assert (verdict.status, verdict.reward) == ("unparsable", 0.0)
    assert verdict.detail == "5 cannot be compared: OverflowError: too large"


@pytest.mark.parametrize(
    "piece", [r"\frac1", "A ", "1 ", "5 a/ ", "x^{y^{", r"\sum_{k=1}^{1000}", "9^", "x!", r"1\pm1,"]
)
def test_no_repetition_takes_exponential_time(piece):
    """Each of these went on for ever, or would with one careless pattern."""
    response = f"<answer>{(piece * 1000)[:900]}x</answer>"
    for gold in ("5", "A, C", "[1,2]", piece * 20):
        assert check_math(response, gold, f"Find {response}").reward == 0.0
