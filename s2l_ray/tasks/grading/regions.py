"""Parts of the real line: intervals, inequalities, unions and sets of numbers, compared by what they contain.

A region is where it may change and a test for a number. Two are equal if they agree at every place where one of them
may change, between these places and beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from s2l_ray.tasks.grading.atoms import UNKNOWN_FUNCTIONS
from s2l_ray.tasks.grading.equality import close
from s2l_ray.tasks.grading.nodes import Node
from s2l_ray.tasks.grading.tokens import FUNCTIONS
from s2l_ray.tasks.grading.values import Evaluation, NoValueError, context

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b and not close(a, b),
    "<=": lambda a, b: a < b or close(a, b),
    ">": lambda a, b: a > b and not close(a, b),
    ">=": lambda a, b: a > b or close(a, b),
    "!=": lambda a, b: not close(a, b),
    "=": close,
}
_INEQUALITIES = frozenset({"<", "<=", ">", ">=", "!="})


class NoRegionError(ValueError):
    """An answer is no part of the real line, or not known to be."""


@dataclass(frozen=True)
class Region:
    """A part of the real line."""

    changes: tuple[Any, ...]
    """The finite numbers at which it begins or ends."""
    contains: Callable[[Any], bool]
    variable: str = ""
    """The name that an inequality gives its numbers."""


def region_of(node: Node) -> Region:
    """The region that an answer describes.

    Raises:
        NoRegionError: it describes none.
    """
    build = _BUILD.get(node.op)
    if build is None:
        raise NoRegionError(node.op)
    return build(node)


def regions_equal(gold: Region, found: Region) -> bool:
    """Whether two regions contain the same numbers."""
    if gold.variable and found.variable and gold.variable != found.variable:
        return False
    places = sorted({*gold.changes, *found.changes})
    one = context().mpf(1)
    between = [(a + b) / 2 for a, b in pairwise(places) if not close(a, b)]
    tested = [*places, *between, *([places[0] - one, places[-1] + one] if places else [one])]
    return all(gold.contains(place) == found.contains(place) for place in tested)


def is_inequality(node: Node) -> bool:
    """A relation by which numbers are bounded, or several, or a set described by them."""
    if node.op == "relation":
        return not _INEQUALITIES.isdisjoint(node.name.split())
    return node.op == "builder" or (node.op == "list" and all(map(is_inequality, node.args)))


def _number(node: Node) -> Any:
    try:
        value = Evaluation(_ordered_point(node)).value(node)
    except NoValueError as error:
        raise NoRegionError(str(error)) from error
    if context().im(value) != 0:
        raise NoRegionError("not real")
    return context().re(value)


def _ordered_point(node: Node) -> dict[str, Any]:
    """Values for the variables in the ends of intervals, in the order of the alphabet: [a, b] is not empty."""
    names = sorted(node.symbols() - {"e", "i", "pi"})
    return {name: sum(context().mpf(ord(letter)) / 100**place for place, letter in enumerate(name)) for name in names}


def _interval(node: Node) -> Region:
    if len(node.args) != 2:
        raise NoRegionError("a tuple")
    low, high = map(_number, node.args)
    above, below = _COMPARE[">" if node.name[0] == "(" else ">="], _COMPARE["<" if node.name[1] == ")" else "<="]
    return Region(_finite((low, high)), lambda x: above(x, low) and below(x, high))


def _points(node: Node) -> Region:
    values = tuple(map(_number, node.args))
    return Region(_finite(values), lambda x: any(close(x, value) for value in values))


def _joined(node: Node) -> Region:
    regions = [region_of(argument) for argument in node.args]
    return _combined(regions, _JOINS[node.op])


def _combined(regions: Sequence[Region], join: Callable[[Sequence[bool]], bool]) -> Region:
    names = {region.variable for region in regions if region.variable}
    if len(names) > 1:
        raise NoRegionError("several variables")
    changes = tuple(change for region in regions for change in region.changes)
    return Region(
        changes, lambda x: join([region.contains(x) for region in regions]), next(iter(names)) if names else ""
    )


def _listed(node: Node) -> Region:
    regions = [region_of(argument) for argument in node.args]
    if node.name != ",":
        return _combined(regions, any if node.name == "or" else all)
    if not all(map(is_inequality, node.args)):
        return _combined(regions, any)
    both = _combined(regions, all)
    # x < 1, x > 3 has no number in both: either is meant. x > 1, x < 3 has: both are.
    empty = regions_equal(both, Region((), lambda x: False, both.variable))
    return _combined(regions, any) if empty else both


def _relation(node: Node) -> Region:
    relations = node.name.split()
    if relations[-1:] == ["in"] and len(relations) == 1:
        inner = region_of(node.args[1])
        return Region(inner.changes, inner.contains, node.sources[0])
    if any(relation not in _COMPARE for relation in relations):
        raise NoRegionError(node.name)
    node = node.mapped(_named)
    variable = _variable(node)
    sides = node.args
    changes = _finite(tuple(root for pair in pairwise(sides) for root in _roots(pair, variable)))

    def contains(x: Any) -> bool:
        values = [_at(side, variable, x) for side in sides]
        return all(_COMPARE[relation](a, b) for relation, (a, b) in zip(relations, pairwise(values), strict=True))

    return Region(changes, contains, variable)


def _named(node: Node) -> Node:
    """An unknown function's value as a variable: 0 < f(x) < 1."""
    return (
        Node("symbol", name=node.name)
        if node.op == "call" and node.name not in FUNCTIONS and node.name[0] in UNKNOWN_FUNCTIONS
        else node
    )


def _variable(node: Node) -> str:
    """The name of what is bounded: a side of its own, or the only variable."""
    alone = [side.name for side in node.args if side.op == "symbol" and side.name not in ("e", "pi")]
    names = node.symbols() - {"e", "pi", "i"}
    if len(names) == 1:
        return next(iter(names))
    if len(node.args) == 3 and node.args[1].op == "symbol":
        return node.args[1].name
    if len(alone) == 1 and len(node.args) == 2:
        return alone[0]
    raise NoRegionError("several variables")


def _roots(pair: tuple[Node, Node], variable: str) -> tuple[Any, ...]:
    """Where two sides are equal, of which both are linear."""
    if pair[0] == Node("symbol", name=variable):
        return (_at(pair[1], variable, None),)
    if pair[1] == Node("symbol", name=variable):
        return (_at(pair[0], variable, None),)
    for side, other in (pair, pair[::-1]):
        if side.op == "call" and side.name == "abs" and side.args[0] == Node("symbol", name=variable):
            return (bound := _at(other, variable, None), -bound)
    mp = context()
    tried = [mp.mpf(x) for x in (0, 1, 3, -7, 1000.5, -1000.5)]
    at = [_at(pair[0], variable, x) - _at(pair[1], variable, x) for x in tried]
    slope = at[1] - at[0]
    if slope == 0 or not all(
        close(y, at[0] + x * slope, abs(at[0]) + abs(x * slope)) for x, y in zip(tried, at, strict=True)
    ):
        raise NoRegionError("not linear")
    return (-at[0] / slope,)


def _at(node: Node, variable: str, x: Any) -> Any:
    if x is None and variable in node.symbols():
        raise NoRegionError("a variable on both sides")
    point = _ordered_point(node)
    if x is not None and variable in point:
        point[variable] = x
    try:
        value = Evaluation(point).value(node)
    except NoValueError as error:
        raise NoRegionError(str(error)) from error
    if context().im(value) != 0:
        raise NoRegionError("not real")
    return context().re(value)


def _built(node: Node) -> Region:
    element, condition = node.args
    if element.op == "relation" and element.name == "in":
        element = element.args[0]
    region = region_of(condition)
    if element.op != "symbol" or region.variable not in ("", element.name):
        raise NoRegionError("a set of other elements")
    return Region(region.changes, region.contains)


def _finite(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value for value in values if context().isfinite(value))


_JOINS: dict[str, Callable[[Sequence[bool]], bool]] = {
    "union": any,
    "intersection": all,
    "difference": lambda held: held[0] and not held[1],
}
_BUILD: dict[str, Callable[[Node], Region]] = {
    "bracket": _interval,
    "set": _points,
    "union": _joined,
    "intersection": _joined,
    "difference": _joined,
    "list": _listed,
    "relation": _relation,
    "builder": _built,
    "empty": lambda node: Region((), lambda x: False),
    "reals": lambda node: Region((), lambda x: True),
}
