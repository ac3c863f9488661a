"""The expression that a countdown response computes, in a form that does not depend on how it is written down.

Two chains of steps are the same solution if they differ in nothing but the order of steps and operands: a + b is b + a,
(a + b) + c is a + (b + c), a - (b - c) is (a - b) + c, and likewise for * and /. So a sum is the multiset of its terms,
each with its sign, and a product the multiset of its factors, each with 1 or -1 as its exponent. Nothing else is
rewritten: a * (b + c) and a * b + a * c use the numbers differently, and 4 * 1 is not 4 / 1.
"""

from __future__ import annotations

from typing import NamedTuple

from s2l_ray.miniature.countdown import STEP, parse_question


class Expression(NamedTuple):
    """A sum, a product or a number in normal form; equal expressions are equal tuples."""

    kind: str
    """"+", "*", or "" for a given number."""
    parts: tuple[tuple[int, Expression | int], ...]
    """(sign or exponent, term or factor), sorted; for a number ((1, number),)."""


def solution_expression(response: str, answer: str) -> Expression | None:
    """The expression of a response, right or wrong: arithmetic is not checked, since who errs has tried something too.

    Where an operand may be a given number or an earlier result of the same value, it is the given number, or else the
    earliest result. So the form is well defined, though a writer may have meant the other one.

    Args:
        response: steps, as `countdown.check` takes them.
        answer: the problem, `"3 7 12 5 : 27"`.

    Returns:
        None where it is not well defined: the response is no list of steps that join all numbers, each used once.

    Raises:
        DataError: `answer` is not a problem.
    """
    numbers, _ = parse_question(answer)
    pool = [(number, Expression("", ((1, number),))) for number in numbers]
    for part in response.strip().removesuffix(".").split(";"):
        step = STEP.fullmatch(part)
        if step is None:
            return None
        a, op, b, c = int(step[1]), step[2], int(step[3]), int(step[4])
        left, right = _taken(pool, a), _taken(pool, b)
        if left is None or right is None:
            return None
        pool.append((c, _joined(left, op, right)))
    return pool[0][1] if len(pool) == 1 else None


def _taken(pool: list[tuple[int, Expression]], value: int) -> Expression | None:
    """Take the first entry of this value out of the pool; None if there is none."""
    for i, (there, expression) in enumerate(pool):
        if there == value:
            del pool[i]
            return expression
    return None


def _joined(left: Expression, op: str, right: Expression) -> Expression:
    kind, sign = ("+", 1 if op == "+" else -1) if op in "+-" else ("*", 1 if op == "*" else -1)
    parts = [*_parts(left, kind), *((sign * s, part) for s, part in _parts(right, kind))]
    return Expression(kind, tuple(sorted(parts, key=repr)))


def _parts(expression: Expression, kind: str) -> tuple[tuple[int, Expression | int], ...]:
    """The terms or factors of an expression of this kind; any other is one of them."""
    return expression.parts if expression.kind == kind else ((1, expression),)
