"""What an answer is read as: a tree of nodes.

Operations by what they stand for:
    number, based (52_8), symbol, infinity, empty, reals
    add, mul, div, neg, pow, root (index, radicand), call, factorial, plus_minus (left, right)
    percent, degrees, unit
    list (commas without brackets), bracket (a tuple, a point or an interval), set, union, intersection, difference,
    relation, ratio, matrix (of list nodes, one for each row), builder ({x | condition})
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction


class UnreadableError(ValueError):
    """An answer is not written in a notation that the parser knows."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of an answer and its operands."""

    op: str
    args: tuple[Node, ...] = ()
    name: str = ""
    """Of a symbol, function, unit or kind of matrix; the delimiters of a bracket; the relations, split by blanks."""
    number: Fraction = Fraction(0)
    sources: tuple[str, ...] = ()
    """Of a relation: the text of each side without blanks; of a number: as it is written."""

    def walk(self) -> Iterator[Node]:
        """The node and all below it."""
        left = [self]
        while left:
            node = left.pop()
            yield node
            left += node.args

    def mapped(self, change: Callable[[Node], Node]) -> Node:
        """The tree with every node replaced by what `change` makes of it, leaves first."""
        return change(replace(self, args=tuple(argument.mapped(change) for argument in self.args)))

    def symbols(self) -> frozenset[str]:
        """The names of its variables."""
        return frozenset(node.name for node in self.walk() if node.op == "symbol")


def number(value: Fraction | int) -> Node:
    """A node of an exact number."""
    return Node("number", number=Fraction(value))


def renamed_variable(node: Node, old: str, new: str) -> Node:
    """The tree with one variable under another name."""
    if not old or old == new:
        return node
    return node.mapped(lambda n: replace(n, name=new) if n.op == "symbol" and n.name == old else n)


def decimal_digits(node: Node) -> int | None:
    """The significant digits of a number that is written with a decimal point; None for other nodes."""
    if node.op == "neg":
        return decimal_digits(node.args[0])
    if node.op != "number" or not node.sources or "." not in node.sources[0]:
        return None
    return len(node.sources[0].partition("e")[0].replace(".", "").lstrip("0"))
