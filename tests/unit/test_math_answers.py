from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from s2l_ray.kinds import ExtractionLevel
from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.math_answers import check_math
from tests.support.latex_fuzz import pairs
from tests.support.paths import ROOT

SHARED = Path(os.environ.get("S2L_SHARED_DATA", ROOT.parent / "shared" / "data"))
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
    if not (SHARED / file).is_file():
        pytest.skip(f"{SHARED / file} is not here; set S2L_SHARED_DATA")
    problems = load_problems(SHARED / file).problems[::stride]
    own = Counter(check_math(form % p.answer, p.answer, p.question).status for p in problems for form in FORMS)
    assert own == {"right": 3 * len(problems)}
    different = [(p.answer, q.answer) for p, q in itertools.pairwise(problems) if p.answer != q.answer]
    other = Counter(check_math(form % theirs, gold).status for gold, theirs in different for form in FORMS)
    assert other == {"wrong": 3 * len(different)}
