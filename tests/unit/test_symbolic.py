"""Answers that SymPy computes: integrals, sums, products and limits."""

from __future__ import annotations

import pytest

from s2l_ray.tasks import symbolic
from s2l_ray.tasks.symbolic import parse, symbolically_equal


@pytest.mark.parametrize(
    ("gold", "found", "equal"),
    [
        (r"\frac{1}{3}", r"\int_0^1 x^2 dx", True),
        (r"\frac{1}{3}", r"\int_0^1 x dx", False),
        (r"\sum_{k=1}^{10} k", "55", True),
        (r"\sum_{k=1}^{10} k", "56", False),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True),
        (r"\sum_{k=1}^{R} k", r"\frac{r(r+1)}{2}", False),  # equal to math-verify, which folds case
        ("720", r"\prod_{k=1}^{6} k", True),
        ("1", r"x = \lim_{t \to 0} \frac{\sin t}{t}", True),
        (r"\int_0^1 x dx", r"\int_0^1", None),
    ],
)
def test_what_is_left_unevaluated_is_compared_by_value(gold: str, found: str, equal: bool | None) -> None:
    assert symbolically_equal(gold, found) is equal


def test_a_parsed_answer_is_kept() -> None:
    parse.cache_clear()
    for found in ("17 + x", "18 + x", "17 + x"):
        symbolically_equal("x - 17", found)
    assert (parse.cache_info().misses, parse.cache_info().hits) == (3, 3)
    assert parse.cache_info().maxsize == symbolic.KEPT
