"""Values of expressions at a point, to 50 digits; a value's exponent may be of any size, unlike a float's."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache, reduce
from operator import mul
from typing import Any

from s2l_ray.tasks.grading.nodes import Node

DIGITS = 50
_LARGEST_EXPONENT = 2**64
"""Of what exp, powers and trigonometric functions are computed: their time grows with the digits before the point."""
_LARGEST_INTEGER = 2**20
"""Of what gcd and other functions of integers are computed."""

_MOST_TERMS = 5000
"""Of all sums and products in an expression."""

Point = Mapping[str, Any]
"""A value for each variable."""


class NoValueError(ArithmeticError):
    """An expression has no value at a point, or is of a kind that has none."""


@cache
def context() -> Any:
    """Mpmath's functions at our precision; importing it takes a fraction of a second."""
    from mpmath.ctx_mp import MPContext

    made = MPContext()
    made.dps = DIGITS
    return made


class Evaluation:
    """Evaluates expressions at one point.

    Args:
        point: values of the variables; `e`, `i` and pi are constants.
    """

    def __init__(self, point: Point):
        self._mp = context()
        self._point = point
        self.scale = self._mp.mpf(0)
        """The largest of the terms that were added: a difference is known to DIGITS of it."""
        self._terms_left = _MOST_TERMS

    def value(self, node: Node) -> Any:
        """A real or complex number.

        Raises:
            NoValueError: it has none at this point, is of a kind that has none, or is too large.
        """
        try:
            return self._value(node)
        except (ArithmeticError, ValueError, TypeError, MemoryError) as error:
            raise NoValueError(str(error)) from error

    def _value(self, node: Node) -> Any:
        compute = _COMPUTE.get(node.op)
        if compute is None:
            raise NoValueError(node.op)
        value = compute(self, node)
        if self._mp.isnan(value):
            raise NoValueError("not a number")
        return value

    def _number(self, node: Node) -> Any:
        return self._mp.mpf(node.number.numerator) / node.number.denominator

    def _symbol(self, node: Node) -> Any:
        if node.name in self._point:
            return self._point[node.name]
        constants = {"pi": self._mp.pi, "e": self._mp.e, "i": self._mp.j}
        if node.name not in constants:
            raise NoValueError(node.name)
        return +constants[node.name]

    def _add(self, node: Node) -> Any:
        values = [self._value(argument) for argument in node.args]
        self.scale = max(self.scale, *map(abs, (v for v in values if self._mp.isfinite(v))), 0)
        return sum(values[1:], values[0])

    def _pow(self, node: Node) -> Any:
        base, exponent = (self._value(argument) for argument in node.args)
        mp = self._mp
        if base == 0 and not (mp.im(exponent) == 0 and exponent > 0):
            raise NoValueError("a power of zero")
        if base != 0 and mp.isfinite(base) and abs(exponent * mp.log(abs(base))) > _LARGEST_EXPONENT:
            raise NoValueError("too large")
        if mp.im(base) == 0 and mp.re(base) < 0 and (root := _odd_denominator(node.args[1])):
            return -((-base) ** exponent) if root % 2 else (-base) ** exponent
        return base**exponent

    def _root(self, node: Node) -> Any:
        index, value = (self._value(argument) for argument in node.args)
        if self._mp.im(value) == 0 and self._mp.re(value) < 0 and index % 2 == 1:
            return -((-value) ** (1 / index))  # the real root
        return value ** (1 / index)

    def _percent(self, node: Node) -> Any:
        return self._value(node.args[0]) / 100

    def _degrees(self, node: Node) -> Any:
        return self._value(node.args[0]) * self._mp.pi / 180

    def _factorial(self, node: Node) -> Any:
        value = self._value(node.args[0])
        if abs(value) > _LARGEST_EXPONENT:
            raise NoValueError("too large")
        return self._mp.factorial(value)

    def _call(self, node: Node) -> Any:
        values = [self._value(argument) for argument in node.args]
        if any(abs(value) > _LARGEST_EXPONENT for value in values) and node.name not in _OF_ANY_SIZE:
            raise NoValueError("too large")
        function = _FUNCTIONS.get(node.name)
        return function(self._mp, *values) if function is not None else self._unknown(node.name, values)

    def _summed(self, node: Node) -> Any:
        ends = [self._value(end) for end in node.args[:2]]
        if not all(self._mp.isint(end) for end in ends) or ends[1] - ends[0] >= self._terms_left:
            raise NoValueError("bounds that are no integers, or far apart")
        outside, total = self._point, self._mp.mpf(0 if node.op == "sum" else 1)
        for index in range(int(ends[0]), int(ends[1]) + 1):
            self._terms_left -= 1
            self._point = {**outside, node.name: self._mp.mpf(index)}
            value = self._value(node.args[2])
            total = total + value if node.op == "sum" else total * value
            if self._terms_left < 0:
                raise NoValueError("too many terms")
        self._point = outside
        return total

    def _unknown(self, name: str, values: list[Any]) -> Any:
        """Some smooth function of an unknown one's arguments, always the same for one name."""
        rng = random.Random(name)
        terms = (rng.uniform(1, 2) * self._mp.sin(value + rng.uniform(0, 3)) + value / 7 for value in values)
        return sum(terms, self._mp.mpf(rng.uniform(1, 2)))


def _odd_denominator(exponent: Node) -> int:
    """The numerator of an exponent like 2/3, whose denominator is odd and not 1; else 0."""
    if exponent.op == "neg":
        return _odd_denominator(exponent.args[0])
    if exponent.op != "div" or any(part.op != "number" or part.number.denominator != 1 for part in exponent.args):
        return 0
    value = exponent.args[0].number / exponent.args[1].number if exponent.args[1].number else 0
    return abs(value.numerator) if value.denominator % 2 and value.denominator > 1 else 0


def _log(mp: Any, value: Any, base: Any = None) -> Any:
    """Log is the natural one, unless a base is given."""
    if value == 0 or base in (0, 1):
        raise NoValueError("a logarithm of zero")
    return mp.log(value) if base is None else mp.log(value) / mp.log(base)


def _of_integers(function: Callable[[int, int], int]) -> Callable[..., Any]:
    def compute(mp: Any, *values: Any) -> Any:
        if any(value != int(value.real) or abs(value) > _LARGEST_INTEGER for value in values):
            raise NoValueError("no integers")
        return mp.mpf(reduce(function, (int(value.real) for value in values)))

    return compute


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return abs(a)


def _real(mp: Any, value: Any) -> Any:
    if abs(mp.im(value)) > abs(value) * mp.mpf(10) ** (10 - DIGITS):
        raise NoValueError("not real")
    return mp.re(value)


def _floor(mp: Any, value: Any) -> Any:
    nearest = mp.nint(_real(mp, value))  # a value that is an integer but for rounding
    close = abs(nearest - value) < mp.mpf(10) ** (15 - DIGITS) * (1 + abs(value))
    return nearest if close else mp.floor(_real(mp, value))


def _periodic(name: str) -> Callable[[Any, Any], Any]:
    """Sin, cos or tan, which are zero at multiples of pi that are known to DIGITS."""

    def compute(mp: Any, x: Any) -> Any:
        value = getattr(mp, name)(x)
        return mp.mpf(0) if abs(value) < abs(x) * mp.mpf(10) ** (5 - DIGITS) else value

    return compute


_SIN, _COS, _TAN = map(_periodic, ("sin", "cos", "tan"))
_OF_ANY_SIZE = frozenset({"abs", "ln", "log", "max", "min", "Re", "Im"})
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": _SIN,
    "cos": _COS,
    "tan": _TAN,
    "cot": lambda mp, x: _COS(mp, x) / _SIN(mp, x),
    "sec": lambda mp, x: 1 / _COS(mp, x),
    "csc": lambda mp, x: 1 / _SIN(mp, x),
    **{name: (lambda mp, x, name=name: getattr(mp, name)(x)) for name in ["sinh", "cosh", "tanh", "coth", "exp"]},
    **{name: (lambda mp, x, name=name: getattr(mp, "a" + name[3:])(x)) for name in ["arcsin", "arccos", "arctan"]},
    "arccot": lambda mp, x: mp.acot(x),
    "ln": _log,
    "log": _log,
    "abs": lambda mp, x: abs(x),
    "floor": _floor,
    "ceil": lambda mp, x: -_floor(mp, -x),
    "cbrt": lambda mp, x: -((-x) ** (mp.mpf(1) / 3)) if mp.im(x) == 0 and mp.re(x) < 0 else x ** (mp.mpf(1) / 3),
    "sgn": lambda mp, x: mp.sign(x),
    "binomial": lambda mp, n, k: mp.binomial(n, k),
    "factorial2": lambda mp, n: mp.fac2(n),
    "max": lambda mp, *values: max(_real(mp, value) for value in values),
    "min": lambda mp, *values: min(_real(mp, value) for value in values),
    "mod": _of_integers(lambda a, b: a % b),
    "gcd": _of_integers(_gcd),
    "lcm": _of_integers(lambda a, b: abs(a * b) // (_gcd(a, b) or 1)),
    "arg": lambda mp, x: mp.arg(x),
    "Re": lambda mp, x: mp.re(x),
    "Im": lambda mp, x: mp.im(x),
}
_COMPUTE: dict[str, Callable[[Evaluation, Node], Any]] = {
    "number": Evaluation._number,
    "symbol": Evaluation._symbol,
    "add": Evaluation._add,
    "pow": Evaluation._pow,
    "root": Evaluation._root,
    "percent": Evaluation._percent,
    "degrees": Evaluation._degrees,
    "factorial": Evaluation._factorial,
    "call": Evaluation._call,
    "sum": Evaluation._summed,
    "prod": Evaluation._summed,
    "infinity": lambda self, _: self._mp.inf,
    "neg": lambda self, node: -self._value(node.args[0]),
    "mul": lambda self, node: reduce(mul, map(self._value, node.args)),
    "div": lambda self, node: self._value(node.args[0]) / self._value(node.args[1]),
    "unit": lambda self, node: self._value(node.args[0]),
}
