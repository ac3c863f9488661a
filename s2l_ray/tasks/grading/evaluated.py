"""Answers that leave the work to the reader: the question's own formula, or a computation that nobody has done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from s2l_ray.tasks.grading.atoms import UNKNOWN_FUNCTIONS
from s2l_ray.tasks.grading.nodes import Node, UnreadableError
from s2l_ray.tasks.grading.parser import KEPT, read_text

_EXPRESSIONS = frozenset({"add", "mul", "div", "pow", "root", "call", "factorial", "percent"})
"""What can be worked out further; a number, a name, a point or an angle that the question gives may be its answer."""
_LEFT = frozenset({"gcd", "lcm", "max", "min", "floor", "ceil", "mod", "Re", "Im", "arg"})
_FORMULA = re.compile(r"\$\$?([^$]{1,500})\$\$?|\\\[(.{1,500}?)\\\]|\\\((.{1,500}?)\\\)", re.DOTALL)
_PLAIN = re.compile(r"[^\s,;?]+(?: [-+*/^<>×÷·−] [^\s,;?]+)*")  # noqa: RUF001
"""A formula, or a word, of a question without dollar signs."""
_MOST_FORMULAS = 50


def left_to_compute(node: Node) -> bool:
    """Whether its value has a sum or product with bounds, or a function of integers whose arguments are known."""
    return any(_is_left(part) for value in _values(node) for part in value.walk())


def is_unsolved(node: Node) -> bool:
    """Whether it has an inequality that bounds no name, as 2x < 10 does; |x| < 5 and 0 < f(x) < 1 are solved."""
    return any(
        part.op == "relation"
        and not {"<", "<=", ">", ">="}.isdisjoint(part.name.split())
        and not any(_bounds(part, place) for place in range(len(part.args)))
        for part in node.walk()
    )


def restates(found: Node, gold: Node, question: str) -> bool:
    """Whether `found` is an expression that the question has as a formula, and the gold answer is written otherwise."""
    given = _formulas(question) if question else frozenset()
    said = [value for value in _values(found) if value.op in _EXPRESSIONS or is_unsolved(value) or _has_abs(value)]
    restated = given.intersection(map(_shape, said))
    return bool(restated) and restated.isdisjoint(map(_shape, _values(gold)))


def _has_abs(node: Node) -> bool:
    return node.op == "relation" and any(side.name == "abs" for side in node.args)


def _is_left(node: Node) -> bool:
    if node.op in ("sum", "prod"):
        return True
    if node.op != "call" or node.name not in _LEFT or node.symbols() - {"e", "i", "pi"}:
        return False
    if node.name != "mod":
        return True
    residue, modulus = node.args  # 2 mod 7 is worked out, 9 mod 7 is not
    return residue.op != "number" or (modulus.op == "number" and not residue.number < modulus.number)


def _bounds(relation: Node, place: int) -> bool:
    """Whether the side at this place is a name that the other sides do not have."""
    side = relation.args[place]
    if side.op == "call" and (side.name == "abs" or side.name[0] in UNKNOWN_FUNCTIONS) and len(side.args) == 1:
        side = side.args[0]
    others = relation.args[:place] + relation.args[place + 1 :]
    return side.op == "symbol" and not any(side.name in other.symbols() for other in others)


def _values(node: Node) -> list[Node]:
    """What an answer says: the last side of an equation, each element of a list."""
    if node.op == "relation" and node.name.split()[-1] in ("=", "~="):
        return _values(node.args[-1])
    if node.op == "relation" and node.name == "equiv":
        return []
    if node.op in ("list", "set", "bracket"):
        return [value for element in node.args for value in _values(element)]
    return [node]


@lru_cache(KEPT)
def _formulas(question: str) -> frozenset[Node]:
    """The formulas of a question and their sides; of one without any, what it has between blanks."""
    found = ["".join(groups) for groups in _FORMULA.findall(question)]
    found = found or [piece for piece in _PLAIN.findall(question) if not piece.isalnum()]
    return frozenset(shape for formula in found[:_MOST_FORMULAS] for shape in _sides(formula))


def _sides(formula: str) -> list[Node]:
    try:
        node = read_text(formula.strip(" ?!"))
    except (UnreadableError, RecursionError):
        return []
    return [_shape(side) for side in (node, *(node.args if node.op in ("relation", "list") else ()))]


def _shape(node: Node) -> Node:
    """The same expression with the terms and factors in one order, and without what they were read from."""
    if node.op in ("add", "mul"):
        return Node(node.op, tuple(sorted(map(_shape, _operands(node)), key=repr)))
    return Node(node.op, tuple(map(_shape, node.args)), node.name, node.number)


def _operands(node: Node) -> Iterator[Node]:
    """The terms of a sum of sums, or the factors of a product of products. However many there are, each comes once."""
    left = [node]
    while left:
        part = left.pop()
        if part.op == node.op:
            left += part.args
        else:
            yield part
