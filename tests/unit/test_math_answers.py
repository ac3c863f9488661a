from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import pytest

from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.math_answers import answers_equal, check_math, extract_answer
from tests.support.paths import ROOT

SHARED = Path(os.environ.get("S2L_SHARED_DATA", ROOT.parent / "shared" / "data"))
FORMS = (r"So it is \boxed{%s}.", "2 + 2 = 4. The answer is %s.", "2 + 2 = 4\n#### %s")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{\sqrt{2}}}, the answer is 3. #### 4", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{7} and then \boxed{\frac{1}{", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{} The answer is 6", "6"),
        (r"\boxed {x \\ y}", r"x \\ y"),
        (r"{ \{ \\\boxed{8} } \boxed{9", "8"),
        (r"\\boxed{8}. The answer is 7", "7"),
        ("#### 9\nThe answer is 3.50.", "3.50"),
        ("The answer is 3. The final answer is: **1,234.5**.\nBye 7.", "1,234.5"),
        ("**Final Answer:** $x = 5$ because 1 + 4 = 5. Yes.", "$x = 5$"),
        ("I think the answer is therefore 5.", "5"),
        (
            "The answer is:\n\\[ \\begin{pmatrix} 1.5 \\\\ 2 \\end{pmatrix} \\]",
            "\\[ \\begin{pmatrix} 1.5 \\\\ 2 \\end{pmatrix} \\]",
        ),
        ("Answer: $36", "$36"),
        ("reason 3\n#### 18 dollars\nmore 5", "18 dollars"),
        ("it costs $1,250.", "$1,250"),
        ("5-3 is 2, or -2", "-2"),
        ("that is 5-3", "3"),
        ("about 3/4 of it", "3/4"),
        ("no idea", None),
        ("", None),
    ],
)
def test_extraction(text, answer):
    assert extract_answer(text) == answer


def test_extraction_of_degenerate_text_is_linear():
    assert extract_answer(r"\boxed{" * 100_000 + "7") == "7"
    assert extract_answer("The answer is " * 20_000 + "$8") == "$8"


EQUAL = [
    ("18", "18.0"),
    ("18", "$18.00"),
    ("18", "18 dollars per day"),
    ("18", r"x = 18"),
    ("18", "3 \\cdot 6 = 18"),
    ("2,125", "2125"),
    ("10,\\!080", "10{,}080"),
    ("11,\\! 111,\\! 111,\\! 100", "11111111100"),
    ("025", "25"),
    ("-5", "−5"),
    ("1/3", "0.333333"),
    (r"\frac{1}{3}", r"\dfrac13"),
    (r"\frac{14}{3}", "14/3"),
    (r"-\frac{35}{9}", r"\frac{-35}{9}"),
    ("0.15", r"\frac{3}{20}"),
    (r"1\frac{4}{5}", "9/5"),
    ("3/2", "1 1/2"),
    ("-3/2", r"-1\frac12"),
    (r"\text{odd}", "odd"),
    ("B", r"\textbf{(B)} 12"),
    ("C", "C. Paris"),
    ("x=1, y=2", "y=2, x=1"),
    (r"(-\infty, 0) \cup\{1\}$.", r"(-\infty,0)\cup\{1\}"),
    ("62.5%", "62.5"),
    ("50", "50\\%"),
    ("50", "50 percent"),
    ("0.5", "50%"),
    ("90^\\circ", "90"),
    ("90", "90 degrees"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^{\circ}"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"5.4 \text{ cents}", "5.4 cents"),
    (r"15\mbox{ cm}^2", r"15\text{ cm}^{2}"),
    (r"\$32,\!348", "32348"),
    (r"11\sqrt2", r"\sqrt{242}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    ("(a+5)(b+2)", "ab + 2a + 5b + 10"),
    ("6 - 5i", "-5i + 6"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
    ("3, 5, 7", "7, 3 and 5"),
    ("1,-2", r"$-2$ and $1$"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
    ("(3,4]", r"\left(3, 4\right]"),
    (r"x \in [-2,7]", "[-2, 7]"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}"),
    ("y = 2x + 3", "2x+3"),
    ("y = 2x + 3", "2x - y + 3 = 0"),
    ("x=5", "5"),
    ("52_8", "52_{8}"),
    (r"\text{Evelyn}", "evelyn"),
    ("Evelyn", r"\text{Evelyn}."),
    ("no", "No"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", "(C) 5 apples"),
    (r"$\frac{1}{2 n+2}$", r"\frac{1}{2(n+1)}"),
    ("f(n)=n", "n"),
    ("5000000", "$5 million dollars"),
    ("1,200", r"1.2 \text{ thousand}"),
    ("10^{100}", "10^{99} \\cdot 10"),
]


@pytest.mark.parametrize(("gold", "found"), EQUAL)
def test_equal_answers(gold, found):
    assert answers_equal(gold, found) is True


@pytest.mark.parametrize(
    ("gold", "found"),
    [
        ("18", "18.5"),
        ("18", "-18"),
        ("2", "2 pi"),
        ("5", "5 million"),
        ("5", r"5 \text{ thousand}"),
        ("2125", "2,12"),
        (".0000672", "0.000067"),
        ("1/3", "0.33"),
        ("3.14", r"\pi"),
        ("62.5%", "62"),
        ("52_8", "52"),
        ("52", "52_8"),
        ("40_9", "40_8"),
        (r"\text{east}", "seat"),
        ("east", "teas"),
        (r"\text{(C)}", "(B)"),
        (r"\text{(C)}", "5"),
        ("C", "Cat"),
        (r"\text{Evelyn}", "5"),
        ("(8,-2)", "(15,-29)"),
        ("(6,31,-1)", "(31,6,-1)"),
        ("(3,4]", "[3,4]"),
        ("(3,4]", "(3,4)"),
        ("3, 5, 7", "3, 5"),
        ("1,-2", "1,2"),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"),
        ("y = 2x + 3", "y = 2x"),
        ("3R^2", "3r^2"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
        ("x^3+3x-6", "x^3+3x+6"),
    ],
)
def test_different_answers(gold, found):
    assert answers_equal(gold, found) is False


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


@pytest.mark.parametrize(("file", "stride"), [("gsm8k_test.jsonl", 5), ("gsm8k_train.jsonl", 20), ("math500.jsonl", 3)])
def test_gold_answers_are_right_and_those_of_other_rows_wrong(file, stride):
    if not (SHARED / file).is_file():
        pytest.skip(f"{SHARED / file} is not here; set S2L_SHARED_DATA")
    problems = load_problems(SHARED / file).problems[::stride]
    own = Counter(check_math(form % p.answer, p.answer, p.question).status for p in problems for form in FORMS)
    assert own == {"right": 3 * len(problems)}
    pairs = [(p.answer, q.answer) for p, q in itertools.pairwise(problems) if p.answer != q.answer]
    other = Counter(check_math(form % theirs, gold).status for gold, theirs in pairs for form in FORMS)
    assert other == {"wrong": 3 * len(pairs)}
