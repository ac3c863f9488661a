"""Which part of a response is its answer. What that is worth, the corpus says (test_grading_corpus.py)."""

from __future__ import annotations

import pytest

from s2l_ray.tasks.extraction import final_answers
from tests.support.grading import corpus

MATRIX = r"\begin{pmatrix} 1.5 \\ 2 \end{pmatrix}"


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (r"\boxed{\frac{1}{\sqrt{2}}}, the answer is 3. #### 4", (r"\frac{1}{\sqrt{2}}",)),
        (r"\boxed{1} then \boxed{\{1, 2\}} or \boxed{1}", ("1", r"\{1, 2\}")),
        (r"\boxed{\boxed{5}}", ("5",)),
        (r"\boxed{} The answer is 6", ("6",)),
        (r"\boxed {x \\ y}", (r"x \\ y",)),
        (r"{ \{ \\\boxed{8} }", ("8",)),
        (r"\fbox{8}. The answer is 7", ("8",)),
        (r"\boxed{7} and then \boxed{\frac{1}{", ()),
        (r"<think>\boxed{6}</think><answer>\boxed{7}, \boxed{8}</answer> \boxed{9}", ("7, 8",)),
        ("#### 9\nThe answer is 3.50.", ("3.50",)),
        ("The answer is 3. The final answer is: **1,234.5**.\nBye 7.", ("1,234.5",)),
        ("**Final Answer:** $x = 5$ because 1 + 4 = 5. Yes.", ("$x = 5$",)),
        ("I think the answer is therefore 5.", ("5",)),
        (f"The answer is:\n\\[ {MATRIX} \\]", (f"\\[ {MATRIX} \\]",)),
        ("Answer: $36", ("$36",)),
        ("reason 3\n#### 18 dollars\nmore 5", ("18 dollars",)),
        ("5-3 is 2, and that is 5-3", ("5-3",)),
        ("They cost $5 and $6, so the total is $11.", ("$11",)),
        ("So the solutions are $a$ and $b$.", ("$a$ and $b$",)),
        ("The answer is \ue000$5$.", ("$5$",)),
        ("about 3/4 of it", ()),
        ("no idea", ()),
        ("", ()),
    ],
)
def test_strict_extraction(text: str, answers: tuple[str, ...]) -> None:
    assert final_answers(text, "strict") == answers
    if answers:
        assert final_answers(text, "lenient") == answers


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (r"\boxed{7} and then \boxed{\frac{1}{", ("7",)),
        (r"so \boxed{\frac{1}{2}$.", (r"\frac{1}{2}",)),
        (r"\boxed 57.", ("57",)),
        ("<answer>it is $7$", ("$7$",)),
        ("it costs $1,250 in all of them", ("$1,250",)),
        ("5-3 is 2, or -2 in words", ("-2",)),
        ("about 3/4 of it", ("3/4",)),
        (r"2 and $\frac12$ of it", (r"$\frac12$",)),
        (r"<think>\boxed{6}</think> The rest is easy", ("6",)),
        (r"<think>\boxed{6}", ("6",)),
        ("no idea", ()),
    ],
)
def test_what_lenient_reads_where_strict_finds_nothing(text: str, answers: tuple[str, ...]) -> None:
    assert final_answers(text, "strict") == ()
    assert final_answers(text, "lenient") == answers


def test_lenient_finds_what_strict_finds() -> None:
    for row in corpus():
        if answers := final_answers(row.response, "strict"):
            assert final_answers(row.response, "lenient") == answers


@pytest.mark.timeout(120)  # in quadratic time each would take minutes
@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        (r"\boxed{" * 50_000 + "7", (), ("7",)),
        ("The answer is " * 20_000 + "$8", ("$8",), ("$8",)),
        ("\\" * 100_000, (), ()),
        (r"\[" * 50_000, (), ()),
        ("answer" + " " * 100_000 + "is", (), ()),
        ("1 " * 50_000 + "and so on", (), ("1",)),
        (r"\boxed{1}" * 20_000, ("1",), ("1",)),
        ("<answer>" * 20_000 + "5", (), ("5",)),
    ],
)
def test_extraction_of_degenerate_text_is_linear(text: str, strict: tuple[str, ...], lenient: tuple[str, ...]) -> None:
    assert final_answers(text, "strict") == strict
    assert final_answers(text, "lenient") == lenient
