"""Which answers mean the same."""

from __future__ import annotations

import pytest

from s2l_ray.tasks.comparison import answers_equal

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
    ("found", "question", "equal"),
    [
        ("m+n = 34", "in lowest terms is $m/n$. Find $m+n$.", True),
        ("m + n = 3 + 31 = 34", "What is the value of $m + n$?", True),
        ("m+n = 34", "If $m+n = 34$ and $m - n = 2$, what is $m$?", False),
        ("m+n = 34", "Find $m+n+1$.", False),
        ("m+n = 34", "", False),
        ("34 crayon boxes", "How many boxes of crayons does she buy?", True),
        ("34 crayon boxes", "How many pens does she buy?", False),
        ("34 crayons", "", True),
        ("34 more", "How many more crayons?", False),
    ],
)
def test_what_a_question_asks_for_and_counts_is_known(found, question, equal):
    assert answers_equal("34", found, question) is equal
