r"""Answers with integrals, sums, products and limits, which SymPy reads and computes.

They are rare as final answers. math-verify parses them and decides; a point at which two answers differ settles most
wrong ones first. What SymPy does may take for ever, and math-verify's signal-based timeouts are off: call it where it
can be killed from outside (`tasks.pool`).
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from s2l_ray.tasks.grading.text import TEXT

if TYPE_CHECKING:
    import mpmath
    import sympy

KEPT = 256
"""Parsed answers that a process keeps."""
_DIFFERENT = 1e-9
"""Relative, of values at a point."""
_NAME = re.compile(r"^\s*\\?[A-Za-z]\w*(?:\([A-Za-z]\))?\s*=(?!=)")


def symbolically_equal(gold: str, found: str) -> bool | None:
    """Whether two expressions are equal as math-verify has it. None: `found` cannot be parsed as one."""
    from math_verify import verify

    gold, found = _NAME.sub("", gold, count=1), _NAME.sub("", found, count=1)
    parsed, gold_parsed = parse(found), parse(gold)
    if parsed is None:
        return None
    if gold_parsed is None or differ_at_a_point(gold_parsed, parsed):
        return False
    return bool(verify(gold_parsed, parsed, timeout_seconds=None)) and not _differ_in_case(gold, found)


@lru_cache(KEPT)
def parse(answer: str) -> sympy.Expr | None:
    """The expression that math-verify parses from an answer; None if it parses none, or something else."""
    import sympy
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig
    from math_verify import parse as math_verify_parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own timeouts are off
    # With units on, it takes a trailing variable for one.
    normalisation = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalisation)
    parsed = math_verify_parse(f"\\boxed{{{answer}}}", [config], parsing_timeout=None)
    expressions = [expression for expression in parsed if not isinstance(expression, str)]
    return expressions[0] if len(expressions) == 1 and isinstance(expressions[0], sympy.Expr) else None


def differ_at_a_point(gold: sympy.Expr, found: sympy.Expr) -> bool:
    """Whether two expressions have values that differ, all variables given values between 0 and 1.

    False says nothing: they may be equal, or have no value there.
    """
    names = sorted({symbol.name for symbol in gold.free_symbols | found.free_symbols})
    of_gold, of_found = (_value(expression, names) for expression in (gold, found))
    if of_gold is None or of_found is None:
        return False
    return bool(abs(of_gold - of_found) > _DIFFERENT * max(abs(of_gold), abs(of_found)))  # not so where one is NaN


def _value(expression: sympy.Expr, names: list[str]) -> mpmath.mpc | None:
    """Its exponent may be of any size, unlike a float's."""
    import mpmath
    import sympy

    point = {s: sympy.Rational(names.index(s.name) + 2, len(names) + 3) for s in expression.free_symbols}
    try:
        parts = expression.evalf(20, subs=point).as_real_imag()
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None
    if not all(isinstance(part, sympy.Float | sympy.Rational) for part in parts):  # f(n), infinity, NaN
        return None
    return mpmath.mpc(*map(mpmath.mpmathify, parts))


def _differ_in_case(gold: str, found: str) -> bool:
    """Whether only the case of their variables tells the two apart: math-verify takes R and r for the same."""
    letters = [set(re.findall(r"[A-Za-z]", re.sub(rf"{TEXT}|\\[A-Za-z]+", "", side))) for side in (gold, found)]
    folded = [{letter.lower() for letter in side} for side in letters]
    return letters[0] != letters[1] and bool({a for a in letters[0] ^ letters[1] if a.lower() in folded[0] & folded[1]})
