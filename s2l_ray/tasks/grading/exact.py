"""Exact values of rational expressions, however large: fractions up to a size, residues modulo primes beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache, reduce

from s2l_ray.tasks.grading.nodes import Node

EXACT_BITS = 2**15
"""Bits of the largest numerator or denominator that is computed; it takes a few milliseconds."""
_PRIMES = (2**61 - 1, 2**89 - 1)
"""Equal integers have equal residues; others of a size that anyone writes differ modulo one of them."""


class InexactError(ArithmeticError):
    """An expression is not rational, or not known to be."""


class TooLargeError(ArithmeticError):
    """A value is rational, but larger than what is computed."""


def exact_value(node: Node) -> Fraction:
    """The value of rational numbers joined by + - * / ^ ! and binomials.

    Raises:
        InexactError: it has something else in it.
        TooLargeError: it is beyond EXACT_BITS.
        ZeroDivisionError: it divides by zero.
    """
    if node.op == "number":
        return _bounded(node.number)
    if node.op not in _OPERATIONS and not (node.op == "call" and node.name == "binomial"):
        raise InexactError(node.op)
    return _bounded(_OPERATIONS[node.op if node.op != "call" else "binomial"](*map(exact_value, node.args)))


def residues(node: Node) -> tuple[int, ...]:
    """The value of a rational expression of any size modulo each of two primes.

    Raises:
        InexactError: it has something else in it, or divides by a multiple of a prime.
    """
    return tuple(_residue(node, prime) for prime in _PRIMES)


def _residue(node: Node, prime: int) -> int:
    if node.op == "number":
        return node.number.numerator * _inverse(node.number.denominator, prime) % prime
    if node.op == "pow":
        base, exponent = node.args
        if (value := _residue(base, prime)) == 0:
            raise InexactError("a power of a multiple of the prime")
        return pow(value, _integer_residue(exponent, prime - 1), prime)  # by Fermat's little theorem
    values = [_residue(argument, prime) for argument in node.args]
    if node.op == "div":
        return values[0] * _inverse(values[1], prime) % prime
    return _in_ring(node.op, values, prime)


def _integer_residue(node: Node, modulus: int) -> int:
    """An integer exponent modulo a number that is no prime: nothing is divided."""
    if node.op == "number" and node.number.denominator == 1:
        return node.number.numerator % modulus
    if node.op == "pow":
        try:
            exponent = exact_value(node.args[1])
        except TooLargeError as error:
            raise InexactError("a tower of powers") from error
        if exponent.denominator != 1 or exponent < 0:
            raise InexactError("no integer")
        return pow(_integer_residue(node.args[0], modulus), exponent.numerator, modulus)
    return _in_ring(node.op, [_integer_residue(argument, modulus) for argument in node.args], modulus)


def _in_ring(op: str, values: list[int], modulus: int) -> int:
    """A sum, product or negative of integers, modulo any number."""
    match op, values:
        case "add", _:
            return sum(values) % modulus
        case "mul", (a, b):
            return a * b % modulus
        case "neg", (a,):
            return -a % modulus
    raise InexactError(op)


def _inverse(value: int, prime: int) -> int:
    if value % prime == 0:
        raise InexactError("a division by a multiple of the prime")
    return pow(value, -1, prime)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return _rational_power(base, exponent)
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:
            raise ZeroDivisionError
        return base ** (exponent.numerator % 2 + 2)
    if abs(exponent) * _bits(base) > EXACT_BITS:
        raise TooLargeError
    return base**exponent.numerator


def _rational_power(base: Fraction, exponent: Fraction) -> Fraction:
    """(8/27)^(2/3) is 4/9; most others are irrational."""
    root = exponent.denominator
    if base < 0 or root > 64 or _bits(base) > 4096:
        raise InexactError("a root")
    parts = [_integer_root(base.numerator, root), _integer_root(base.denominator, root)]
    return _power(Fraction(*parts), Fraction(exponent.numerator))


def _integer_root(value: int, root: int) -> int:
    low, high = 0, 1 << (value.bit_length() // root + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**root <= value else (low, middle - 1)
    if low**root != value:
        raise InexactError("a root")
    return low


def _root(index: Fraction, value: Fraction) -> Fraction:
    if index.denominator != 1 or index < 1:
        raise InexactError("a root")
    if value < 0 and index % 2:
        return -_rational_power(-value, 1 / index)
    return _rational_power(value, 1 / index)


def _factorial(n: Fraction) -> Fraction:
    if n.denominator != 1 or n < 0:
        raise InexactError("no integer")
    if n * _bits(n) > EXACT_BITS:
        raise TooLargeError
    return Fraction(_factorial_of(n.numerator))


@cache
def _factorial_of(n: int) -> int:
    return math.factorial(n)


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if not n.denominator == k.denominator == 1 or not 0 <= k <= n:
        raise InexactError("no integers")
    if n > EXACT_BITS:
        raise TooLargeError
    return Fraction(math.comb(n.numerator, k.numerator))


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > EXACT_BITS:
        raise TooLargeError
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


_OPERATIONS: dict[str, Callable[..., Fraction]] = {
    "add": lambda *terms: reduce(lambda total, term: _bounded(total + term), terms),
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pow": _power,
    "root": _root,
    "factorial": _factorial,
    "binomial": _binomial,
}
