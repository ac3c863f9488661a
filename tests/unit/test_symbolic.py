from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction

import pytest

from s2l_ray.tasks import symbolic
from s2l_ray.tasks.symbolic import differ_at_a_point, exact_value, expressions_equal, parse
from tests.support.patience import PATIENCE_S

ANSWERS = [
    r"\frac{3\sqrt{3}}{4}", r"-\frac{\sqrt{2}}{\pi}+1", "x^5 - x^4 + x^3 - x^2 + x - 1", "3r^2", r"\sin^2 x + \cos x",
    "2^{10} + n!", "(2,4]", r"(-\infty, -1) \cup [0, \infty)", r"\left(\frac{1}{2}, -3\right)", r"\{1, 2, \sqrt{3}\}",
    "1 - 12i", "y = 2x + 3", r"\begin{pmatrix} 1 & -2 \\ 3 & 4 \end{pmatrix}", r"1 \pm \sqrt{19}", r"x \le 3", "p - q",
    "5, 7", r"\log_2 3", r"\binom{5}{2}", r"\lfloor x \rfloor + \frac{a}{b}", r"k\left(4 k^{2}+k-1\right) / 2", "50%",
    r"n \mid 5", r"\frac{1}{",
]  # fmt: skip
PLAIN = """
import json, sys
from math_verify import LatexExtractionConfig, parse
config = LatexExtractionConfig(boxed_match_priority=0)
for answer in json.load(sys.stdin):
    found = parse(f"\\\\boxed{{{answer}}}", [config], parsing_timeout=600)
    print(json.dumps(repr([e for e in found if not isinstance(e, str)])))
"""


def test_parsing_in_two_stages_gives_what_plain_math_verify_gives() -> None:
    plain = subprocess.run(
        [sys.executable, "-c", PLAIN],
        input=json.dumps(ANSWERS),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    expected = [json.loads(line) for line in plain.stdout.splitlines()]
    assert [repr(list(parse(answer))) for answer in ANSWERS] == expected
    assert sum(text != "[]" for text in expected) >= 22  # or both would fail alike


@pytest.mark.parametrize(
    ("gold", "found"),
    [
        ("x + 1", "x + 2"),
        (r"\sqrt{2}", r"\sqrt{3}"),
        ("1 + 2i", "1 - 2i"),
        ("2x", "2y"),
        ("x^2", "x^3"),
        (r"\frac{\sqrt{3}}{2}", "0.866"),
        ("5", "5 + x"),
    ],
)
def test_different_expressions_differ_at_a_point(gold: str, found: str) -> None:
    assert differ_at_a_point(*parse(gold), *parse(found))
    assert expressions_equal(gold, found) is False


@pytest.mark.parametrize(
    ("gold", "found", "equal"),
    [
        (r"\sin^2 x + \cos^2 x", r"\frac{x}{x}", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("(x + y)^2", "x^2 + 2xy + y^2", True),
        (r"\frac{\sqrt{3}}{2}", "0.866025", True),  # rounded to 6 places, as math-verify takes it
        ("50%", "50", True),  # by value 0.5
        ("3R^2", "3r^2", False),  # equal to math-verify, which folds case
        ("f(n) + 1", "f(n) + 2", False),  # no value
        (r"\frac{1}{0} + x", r"\frac{2}{0} + x", True),  # infinite
        ("(2,4)", "6", False),  # a set has no value
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "3", False),
        ("x = 5", "x = 6", False),
        (r"\sum_{k=1}^{3} k", r"\int_0^1 x dx", False),
    ],
)
def test_what_a_point_does_not_settle_math_verify_decides(gold: str, found: str, equal: bool) -> None:
    assert not differ_at_a_point(*parse(gold), *parse(found))
    assert expressions_equal(gold, found) is equal


def test_what_cannot_be_parsed() -> None:
    assert expressions_equal("x", r"\frac{1}{") is None


def test_a_parsed_answer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    parse.cache_clear()
    for found in ("17 + x", "18 + x", "17 + x"):
        expressions_equal("x - 17", found)
    assert (parse.cache_info().misses, parse.cache_info().hits) == (3, 3)
    assert parse.cache_info().maxsize == symbolic.KEPT


HUGE = [
    ("2^{2025}", "2^{2024}", False),
    ("2^{2025}", "2^{2025} - 1", False),
    ("2^{2025}", r"2 \cdot 2^{2024}", True),
    ("2^{-2025}", "2^{-2024}", False),
    ("2^{-2025}", r"\frac{1}{2^{2025}}", True),
    ("10^{1000} + 1", "10^{1000}", False),
    (r"\frac{2^{2025}}{3}", r"\frac{2^{2026}}{6}", True),
    ("2^{2025} + x", "2^{2024} + x", False),
    ("e^{1000}", "e^{1001}", False),
    (r"\sqrt{2} \cdot 10^{400}", r"\sqrt{3} \cdot 10^{400}", False),
    (r"1.5 \times 10^{400}", r"2.5 \times 10^{400}", False),
    (r"1.5 \times 10^{400}", r"15 \times 10^{399}", True),
    ("1000!", r"1000 \cdot 999!", True),
    ("1000!", "999!", False),
    ("1000000!", "999999!", False),
    (r"\binom{2025}{1000}", r"\binom{2025}{1025}", True),
    (r"\binom{2025}{1000}", r"\binom{2025}{999}", False),
    ("10^{10^{10}}", "10^{10^{9}}", False),
    ("10^{10^{10}}", r"10 \cdot 10^{10^{10} - 1}", True),
    ("9^{9^9}", "9^{9^8}", False),
]


@pytest.mark.parametrize(("gold", "found", "equal"), HUGE)
def test_numbers_beyond_a_float(gold: str, found: str, equal: bool) -> None:
    assert expressions_equal(gold, found) is equal


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("2^{2025}", Fraction(2**2025)),
        ("10^{-7}", Fraction(1, 10**7)),
        (r"\frac{1}{3} + 2", Fraction(7, 3)),
        (r"4! \cdot 5", Fraction(120)),
        (r"\binom{7}{3}", Fraction(35)),
        ("-2^{3}", Fraction(-8)),
        *[(answer, None) for answer in ("x + 1", "0.866", r"\sqrt{2}", r"\pi", "50%", "(1,2)")],
        *[(answer, None) for answer in ("9^{9^{9^{9}}}", "10^{10^{10}}", "100000!", "2^{0-70000}")],  # too large
    ],
)
def test_exact_values(answer: str, value: Fraction | None) -> None:
    assert exact_value(*parse(answer)) == value
