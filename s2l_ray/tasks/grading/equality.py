"""Are two expressions equal? Exactly where they are rational, else by their values at a few points.

Two expressions of elementary functions that agree to 30 digits at several points are taken for equal; nothing is
simplified, so a comparison takes microseconds to milliseconds, and a wrong answer usually differs at the first point.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

from s2l_ray.tasks.grading.exact import InexactError, TooLargeError, exact_value, residues
from s2l_ray.tasks.grading.nodes import Node, UnreadableError, decimal_digits, number
from s2l_ray.tasks.grading.values import DIGITS, Evaluation, NoValueError, context

ROUNDED_DIGITS = 6
"""Significant digits from which a decimal may stand for a number that it rounds or cuts off."""
GOLD_DIGITS = 4
"""Likewise of a gold answer, which no model has chosen to write so: 1/3 is right for 0.3333."""
_AGREED_DIGITS = 30
_RANGES = (
    (0.1, 0.9), (1.1, 3.0), (-0.9, -0.1), (-30.0, -3.0), (2.0, 30.0), (-3.0, 3.0), (0.1, 0.9),
    (100.0, 1000.0), (-1000.0, -100.0),
)  # fmt: skip
"""Of the variables' values, point by point: some functions have values near zero only, some for positive numbers, and
|x + 9| is x + 9 for most."""
_COUNTED = frozenset("klmnNMK")
"""Names of variables that are integers where it matters: (-1)^n is cos(n pi)."""


def expressions_equal(gold: Node, found: Node) -> bool:
    """Whether two expressions without lists and relations are equal.

    A decimal of 6 digits may be rounded, a gold one of 4.

    Raises:
        UnreadableError: they have no values by which they can be compared.
    """
    if gold == found:
        return True
    if gold.op in _WHOLE or found.op in _WHOLE or _is_mixed_up(gold, found):
        return False
    try:
        values = exact_value(gold), exact_value(found)
        return values[0] == values[1] or _rounds(gold, found)
    except TooLargeError:
        try:
            return residues(gold) == residues(found)
        except InexactError:
            pass
    except (InexactError, ZeroDivisionError):
        pass
    gold, found = _same_logarithms(gold, found)
    return _agree_at_points(gold, found) or _rounds(gold, found)


_WHOLE = frozenset({"text", "based", "empty", "reals"})
"""What is equal to itself only."""


def _is_mixed_up(gold: Node, found: Node) -> bool:
    """2 m + 3 cm, which is not 5, and "not 1 but 0", which is no product of letters that is zero."""
    units = {part.name for part in found.walk() if part.op == "unit"}
    return len(units) > 1 or (gold.op == "number" and gold.number == 0 and bool(_free(found)))


def _agree_at_points(gold: Node, found: Node) -> bool:
    variables = _free(gold) | _free(found)
    points = Points(gold, found, variables)
    outcomes = list(_compared(gold, found, points, allow_complex=False))
    if None in outcomes and True not in outcomes:
        outcomes = list(_compared(gold, found, points, allow_complex=True))
    if True not in outcomes and _has_integers(gold, found):
        return _agree_at_integers(gold, found, points)
    if False in outcomes:
        return _has_integers(gold, found) and _agree_at_integers(gold, found, points)
    if True not in outcomes:
        return _logarithms_agree(gold, found)
    return True


def _free(node: Node) -> set[str]:
    bound = {part.name for part in node.walk() if part.op in ("sum", "prod")}
    return set(node.symbols() - bound - {"e", "i", "pi"})


def _compared(gold: Node, found: Node, points: Points, *, allow_complex: bool) -> Iterator[bool | None]:
    """Whether they agree, point by point, up to the first at which they do not. None: no values to compare there."""
    is_complex = allow_complex or "i" in gold.symbols() | found.symbols()
    for index in range(len(_RANGES) if points.variables else 1):
        outcome = _compared_at(gold, found, points.at(index), is_complex=is_complex)
        yield outcome
        if outcome is False:
            return


def _compared_at(gold: Node, found: Node, point: dict[str, Any], *, is_complex: bool) -> bool | None:
    evaluation = Evaluation(point)
    try:
        values = evaluation.value(gold), evaluation.value(found)
    except NoValueError:
        return None
    mp = context()
    if not all(map(mp.isfinite, values)):
        return bool(values[0] == values[1])
    tiny = mp.mpf(10) ** (10 - DIGITS)
    if not is_complex and any(abs(mp.im(value)) > tiny * abs(value) for value in values):
        return None
    return close(*values, scale=evaluation.scale)


def close(gold: Any, found: Any, scale: Any = 0) -> bool:
    """Whether two numbers agree to 30 digits: of themselves, and to 40 of the terms that they are sums of."""
    if not (context().isfinite(gold) and context().isfinite(found)):
        return bool(gold == found)
    difference = abs(gold - found)
    size = max(abs(gold), abs(found))
    tens = context().mpf(10)
    return bool(difference <= size * tens**-_AGREED_DIGITS or difference <= scale * tens ** (10 - DIGITS))


class Points:
    """Where two expressions are compared: the same points in every process, and others for every pair.

    They are drawn by a hash of the pair, so that no expression that is right at some fixed points is worth finding.
    """

    def __init__(self, gold: Node, found: Node, variables: Iterable[str]):
        self.variables = sorted(variables)
        pair = repr((gold, found)).encode("utf-8", "surrogatepass") if self.variables else b""
        self._seed = hashlib.sha256(pair).hexdigest()

    def at(self, index: int) -> dict[str, Any]:
        """The values of the variables at the point of this index."""
        rng = random.Random(f"{self._seed}/{index}")
        return {name: context().mpf(rng.uniform(*_RANGES[index])) for name in self.variables}

    def integers(self) -> list[int]:
        """Integers from which the variables that count start."""
        rng = random.Random(f"{self._seed}/integers")
        middle, large = rng.randint(10, 40), rng.randint(50, 200)
        return [2, 3, 4, 7, 8, middle, middle + 1, large, large + 1]


def _has_integers(gold: Node, found: Node) -> bool:
    """Whether an expression suggests that its variables are integers, such as (-1)^n, cos(n pi) or floor(n/2)."""
    for node in (*gold.walk(), *found.walk()):
        counted = bool(node.symbols() & _COUNTED)
        if counted and node.op == "pow" and node.args[0].op == "neg" and node.args[1].symbols():
            return True
        if counted and (node.op in ("sum", "prod") and (node.args[0].symbols() | node.args[1].symbols())):
            return True
        if counted and node.op == "call" and (node.name in ("floor", "ceil") or "pi" in node.symbols()):
            return True
    return False


def _agree_at_integers(gold: Node, found: Node, points: Points) -> bool:
    """Whether they agree where the variables that count are integers."""
    counting = [name for name in points.variables if name in _COUNTED]
    if not counting:
        return False
    outcomes = []
    for start in points.integers():
        point = points.at(1)
        for place, name in enumerate(counting):
            point[name] = context().mpf(start + 3 * place)
            mirrored = {**point, name: context().mpf(start + 5 - place)}
            outcomes.append(_compared_at(gold, found, mirrored, is_complex=False))
        outcomes.append(_compared_at(gold, found, point, is_complex=False))
    return False not in outcomes and True in outcomes


def _logarithms_agree(gold: Node, found: Node) -> bool:
    """Whether two constants that are too large to compute have the same logarithm.

    Raises:
        UnreadableError: one has no logarithm that is known.
    """
    if gold.op == found.op == "infinity":
        return True
    try:
        values = _logarithm(gold), _logarithm(found)
    except (NoValueError, InexactError) as error:
        raise UnreadableError(f"it has no value: {error}") from error
    return close(*values)


def _logarithm(node: Node) -> Any:
    mp = context()
    try:
        value = Evaluation({}).value(node)
        if mp.im(value) != 0 or not mp.re(value) > 0:
            raise InexactError("not positive")
        return mp.log(mp.re(value))
    except NoValueError:
        pass
    match node.op:
        case "pow":
            return Evaluation({}).value(node.args[1]) * _logarithm(node.args[0])
        case "mul":
            return _logarithm(node.args[0]) + _logarithm(node.args[1])
        case "div":
            return _logarithm(node.args[0]) - _logarithm(node.args[1])
        case "root":
            return _logarithm(node.args[1]) / Evaluation({}).value(node.args[0])
    raise InexactError(node.op)


def _rounds(gold: Node, found: Node) -> bool:
    """Whether one is a decimal of enough digits that rounds or cuts off the other, which is none."""
    digits = decimal_digits(gold), decimal_digits(found)
    if (digits[0] is None) == (digits[1] is None):
        return False
    decimal, other, least = (gold, found, GOLD_DIGITS) if digits[0] is not None else (found, gold, ROUNDED_DIGITS)
    if max(digit or 0 for digit in digits) < least or other.symbols() - {"e", "pi"}:
        return False
    literal = decimal.args[0] if decimal.op == "neg" else decimal
    mantissa, _, exponent = literal.sources[0].partition("e")
    unit = context().mpf(10) ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    evaluation = Evaluation({})
    try:
        rounded, value = evaluation.value(decimal), evaluation.value(other)
    except NoValueError:
        return False
    if context().im(value) != 0:
        return False
    difference = abs(rounded - value)
    below = unit - unit * context().mpf(10) ** (10 - DIGITS)  # 4.999999 cuts off no 5
    return bool(difference <= unit / 2 or (difference < below and abs(rounded) < abs(value)))


def _same_logarithms(gold: Node, found: Node) -> tuple[Node, Node]:
    """A log without a base is that of 10 where the other side has that one."""
    bases = {node.args[1] for node in (*gold.walk(), *found.walk()) if node.op == "call" and node.name == "log"
             and len(node.args) == 2}  # fmt: skip
    if not any(base.op == "number" and base.number == 10 for base in bases):
        return gold, found

    def change(node: Node) -> Node:
        bare = node.op == "call" and node.name == "log" and len(node.args) == 1
        return Node("call", (*node.args, number(10)), "log") if bare else node

    return gold.mapped(change), found.mapped(change)
