r"""Do two answers in LaTeX mean the same? math-verify decides; what costs most of its time is spared where it can be.

A right answer is often written alike by many rollouts, so parsed answers are kept. A wrong one makes SymPy try
everything it knows to show that a difference is zero; one point at which the two differ settles that first. And most
of the parser's time is its look-ahead, for which ANTLR has a faster mode.

Call it where it can be killed from outside (`tasks.pool`): math-verify's signal-based timeouts are off.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from operator import add, mul
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mpmath
    import sympy

KEPT = 1024
"""Parsed answers that a process keeps."""
_DIFFERENT = 1e-5, 1e-9
"""Absolute and relative. math-verify takes a decimal for equal to what it rounds, to 6 places."""
EXACT_BITS = 2**16
"""Bits of the largest numerator or denominator that an exact comparison computes; it takes a few milliseconds."""
TEXT = r"\\(?:text|mbox|textbf|textit|textrm|textup|mathrm|mathbf|mathit)\s*\{([^{}]*)\}"
"""A piece of words in LaTeX; its content is group 1."""


def expressions_equal(gold: str, found: str) -> bool | None:
    """Whether two expressions are equal as math-verify has it, variables told apart by case.

    None: `found` cannot be parsed.
    """
    from math_verify import verify

    found_parsed, gold_parsed = parse(found), parse(gold)
    if not found_parsed:
        return None
    if len(gold_parsed) == len(found_parsed) == 1:
        exact = exact_value(gold_parsed[0]), exact_value(found_parsed[0])
        if None not in exact:
            return exact[0] == exact[1]
        if differ_at_a_point(gold_parsed[0], found_parsed[0]):
            return False
    equal = verify(list(gold_parsed), list(found_parsed), timeout_seconds=None)  # gold first: verify is not symmetric
    return equal and not _differ_in_case(gold, found)


@lru_cache(KEPT)
def parse(answer: str) -> tuple[sympy.Basic, ...]:
    """The expressions that math-verify parses from an answer; empty if it cannot parse it."""
    from math_verify import LatexExtractionConfig
    from math_verify import parse as math_verify_parse

    _look_ahead_in_two_stages()
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own timeouts are off
    config = LatexExtractionConfig(boxed_match_priority=0)
    parsed = math_verify_parse(f"\\boxed{{{answer}}}", [config], parsing_timeout=None)
    return tuple(expression for expression in parsed if not isinstance(expression, str))


def exact_value(expression: sympy.Basic) -> Fraction | None:
    """The value of integers joined by + * / ^ ! and binomials; None for other expressions and beyond EXACT_BITS.

    math-verify would take 2^{2025} and 2^{2025} - 1 for equal, which agree in all of a hundred digits.
    """
    import sympy

    if isinstance(expression, sympy.Rational):
        return _bounded(Fraction(int(expression.p), int(expression.q)))
    compute = _EXACT.get(type(expression).__name__)
    if compute is None:
        return None
    values = [exact_value(argument) for argument in expression.args]
    return None if None in values else compute(*values)


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1 or (base == 0 and exponent < 0) or abs(exponent) * _bits(base) > EXACT_BITS:
        return None
    return base**exponent.numerator


def _factorial(n: Fraction) -> Fraction | None:
    small = n.denominator == 1 and n >= 0 and n * _bits(n) <= EXACT_BITS
    return Fraction(math.factorial(n.numerator)) if small else None


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    small = n.denominator == k.denominator == 1 and 0 <= k <= n <= EXACT_BITS
    return Fraction(math.comb(n.numerator, k.numerator)) if small else None


def _joined(operator: Callable[[Fraction, Fraction], Fraction]) -> Callable[..., Fraction | None]:
    def compute(*values: Fraction) -> Fraction | None:
        result: Fraction | None = values[0]
        for value in values[1:]:
            result = None if result is None else _bounded(operator(result, value))
        return result

    return compute


def _bounded(value: Fraction) -> Fraction | None:
    return value if _bits(value) <= EXACT_BITS else None


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "Add": _joined(add),
    "Mul": _joined(mul),
    "Pow": _power,
    "factorial": _factorial,
    "binomial": _binomial,
}


def differ_at_a_point(gold: sympy.Basic, found: sympy.Basic) -> bool:
    """Whether two expressions have values that differ, all variables given values between 0 and 1.

    False says nothing: they may be equal, have no value there, or be of a kind that is not compared by value.
    """
    if not (_has_value(gold) and _has_value(found)):
        return False
    names = sorted({symbol.name for symbol in gold.free_symbols | found.free_symbols})
    of_gold, of_found = (_value(expression, names) for expression in (gold, found))
    if of_gold is None or of_found is None:
        return False
    absolute, relative = _DIFFERENT
    # Not so where one is NaN.
    return bool(abs(of_gold - of_found) > absolute + relative * max(abs(of_gold), abs(of_found)))


def _has_value(expression: sympy.Basic) -> bool:
    """An expression of numbers, variables and functions; not one that math-verify compares in ways of its own."""
    import sympy
    from sympy.concrete.expr_with_limits import ExprWithLimits

    if not isinstance(expression, sympy.Expr) or expression.is_Matrix or expression.is_Symbol:
        return False
    return not expression.has(sympy.UnevaluatedExpr, ExprWithLimits, sympy.Derivative, sympy.Limit, sympy.MatrixExpr)


def _value(expression: sympy.Expr, names: list[str]) -> mpmath.mpc | None:
    """Its exponent may be of any size, unlike a float's."""
    import mpmath
    import sympy

    point = {s: sympy.Rational(names.index(s.name) + 2, len(names) + 3) for s in expression.free_symbols}
    try:
        parts = expression.evalf(20, subs=point).as_real_imag()
    except (TypeError, ValueError, ArithmeticError):
        return None
    if not all(isinstance(part, sympy.Float | sympy.Rational) for part in parts):  # f(n), infinity, NaN
        return None
    return mpmath.mpc(*map(mpmath.mpmathify, parts))


def _differ_in_case(gold: str, found: str) -> bool:
    """Whether only the case of their variables tells the two apart: math-verify takes R and r for the same."""
    letters = [set(re.findall(r"[A-Za-z]", re.sub(rf"{TEXT}|\\[A-Za-z]+", "", side))) for side in (gold, found)]
    folded = [{letter.lower() for letter in side} for side in letters]
    return letters[0] != letters[1] and folded[0] == folded[1]


@cache
def _look_ahead_in_two_stages() -> None:
    """Have latex2sympy parse with ANTLR's SLL prediction, and with LL, its default, where SLL finds a syntax error.

    ANTLR promises the same tree or a syntax error of SLL (see its `PredictionMode`). latex2sympy 1.11 has no option
    for it, so its class is changed.
    """
    from antlr4.atn.PredictionMode import PredictionMode
    from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy

    create_parser, parse_as_told = _Latex2Sympy.create_parser, _Latex2Sympy.parse

    def create_parser_with_mode(self: Any, latex: str) -> Any:
        parser = create_parser(self, latex)
        parser._interp.predictionMode = self.prediction_mode
        return parser

    def parse_in_two_stages(self: Any, latex: str) -> Any:
        self.prediction_mode = PredictionMode.SLL
        try:
            return parse_as_told(self, latex)
        except Exception:
            self.prediction_mode = PredictionMode.LL
            return parse_as_told(self, latex)

    _Latex2Sympy.create_parser, _Latex2Sympy.parse = create_parser_with_mode, parse_in_two_stages
