"""For random answers: a rewriting that keeps the meaning is right, one that changes it is wrong."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.tasks.comparison import answers_equal
from s2l_ray.tasks.grading.equality import Points
from s2l_ray.tasks.grading.parser import read_text

QUICK = settings(max_examples=100, deadline=None, derandomize=True, database=None)
VARIABLES = st.sampled_from(["x", "y", "n", "t", r"\theta", "a_1", "R"])
INTEGERS = st.integers(2, 40).map(str)
LEAVES = st.one_of(VARIABLES, INTEGERS, st.sampled_from([r"\pi", "e", r"\sqrt{2}", r"\frac{3}{7}", "0.25"]))


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, inner)
    return st.one_of(
        pair.map(lambda p: rf"\left({p[0]} + {p[1]}\right)"),
        pair.map(lambda p: rf"\left({p[0]} - {p[1]}\right)"),
        pair.map(lambda p: rf"{p[0]} \cdot {p[1]}"),
        pair.map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}^2 + 1}}"),
        inner.map(lambda e: rf"\left({e}\right)^2"),
        inner.map(lambda e: rf"\sqrt{{{e}^2 + 1}}"),
        inner.map(lambda e: rf"\sin\left({e}\right)"),
        inner.map(lambda e: rf"\arctan\left({e}\right)"),
    )


EXPRESSIONS = st.recursive(LEAVES, _grown, max_leaves=6)
REWRITINGS = (
    r"\left({e}\right) \cdot 3 / 3",
    r"0 + {e}",
    r"-\left(-{e}\right)",
    r"\frac{{2 \cdot \left({e}\right)}}{{2}}",
    r"({e}) + q - q",
    r"({e})(\sin^2 q + \cos^2 q)",
    r"\frac{{({e}) \cdot \sqrt{{5}}}}{{\sqrt{{5}}}}",
    r"1 \cdot {e} + 7 - 7.0",
    r"\ln\left(e^{{\arctan({e})}}\right) - \arctan({e}) + {e}",
    r"z = {e}",
)
CHANGES = (
    r"{e} + 1",
    r"{e} - \frac{{1}}{{97}}",
    r"{e} + q",
    r"{e} + 10^{{-12}}",
    r"2 = {e}",
    r"q = 2 \cdot q + {e}",
    r"\{{{e}, 1 + {e}\}}",
)


@QUICK
@given(EXPRESSIONS, st.sampled_from(REWRITINGS))
def test_a_rewriting_that_keeps_the_value_is_right(expression: str, rewriting: str) -> None:
    assert answers_equal(expression, rewriting.format(e=expression)) is True
    assert answers_equal(rewriting.format(e=expression).removeprefix("z = "), expression) is True


@QUICK
@given(EXPRESSIONS, st.sampled_from(CHANGES))
def test_a_rewriting_that_changes_the_value_is_wrong(expression: str, change: str) -> None:
    assert answers_equal(expression, change.format(e=expression)) is not True


@QUICK
@given(EXPRESSIONS, EXPRESSIONS)
def test_sums_and_products_commute_and_differences_do_not(a: str, b: str) -> None:
    assert answers_equal(rf"({a}) + ({b})", rf"({b}) + ({a})") is True
    assert answers_equal(rf"({a})({b})", rf"({b}) \cdot ({a})") is True
    assert answers_equal(rf"({a}) - ({b})", rf"({b}) - ({a})") is answers_equal(a, b)


@QUICK
@given(st.lists(st.fractions(-50, 50, max_denominator=40), min_size=2, max_size=5, unique=True))
def test_lists_have_no_order_and_tuples_have_one(values: list[Fraction]) -> None:
    written = [str(value) for value in values]
    turned = written[1:] + written[:1]
    assert answers_equal(", ".join(written), ", ".join(turned)) is True
    assert answers_equal(rf"\{{{', '.join(written)}\}}", rf"\{{{', '.join(turned)}\}}") is True
    assert answers_equal(f"({', '.join(written)})", f"({', '.join(turned)})") is False
    assert answers_equal(", ".join(written), ", ".join(written[1:])) is False
    assert answers_equal(", ".join(written), ", ".join([*written[1:], "51"])) is False


@QUICK
@given(st.integers(-50, 50), st.integers(1, 50), st.sampled_from(["()", "[]", "(]", "[)"]), st.sampled_from("xtk"))
def test_an_interval_is_its_inequality(low: int, length: int, ends: str, name: str) -> None:
    high = low + length
    interval = f"{ends[0]}{low}, {high}{ends[1]}"
    below, above = (r"\le" if ends[0] == "[" else "<"), (r"\le" if ends[1] == "]" else "<")
    inequality = rf"{low} {below} {name} {above} {high}"
    for same in (inequality, rf"{name} \in {interval}", rf"\{{{name} \mid {inequality}\}}"):
        assert answers_equal(interval, same) is True
        assert answers_equal(same, interval) is True
    assert answers_equal(interval, rf"{low} {below} {name} {above} {high + 1}") is False
    other = r"\le" if below == "<" else "<"
    assert answers_equal(interval, rf"{low} {other} {name} {above} {high}") is False


@QUICK
@given(st.integers(-(10**6), 10**6), st.integers(300, 70_000))
def test_large_integers_are_compared_exactly(k: int, exponent: int) -> None:
    power = rf"3^{{{exponent}}}"
    assert answers_equal(rf"{power} + {abs(k)}", rf"{abs(k)} + 9 \cdot 3^{{{exponent - 2}}}") is True
    assert answers_equal(rf"{power} + {abs(k)}", rf"{power} + {abs(k) + 1}") is False


def test_an_expression_that_is_right_at_the_points_of_another_pair_is_wrong() -> None:
    """The points are those of a pair in every process, and no others help to find what would be paid."""
    x = read_text("x")
    points = [Fraction(int(Points(x, x, ["x"]).at(index)["x"] * 2**60), 2**60) for index in range(9)]
    assert points == [Fraction(int(Points(x, x, ["x"]).at(index)["x"] * 2**60), 2**60) for index in range(9)]
    zero_there = "".join(f"(x - ({point.numerator}/{point.denominator}))" for point in points)
    assert answers_equal("x", f"x + 0{zero_there}") is True
    assert answers_equal("x", f"x + {zero_there}") is False
