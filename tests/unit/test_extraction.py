"""Which part of a response is its answer."""

from __future__ import annotations

import pytest

from s2l_ray.tasks.extraction import extract_answer


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
