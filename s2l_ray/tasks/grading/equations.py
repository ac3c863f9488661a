"""Equations and inequalities: `name = value`, chains, and whether two of them say the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from s2l_ray.tasks.grading.equality import Points, close
from s2l_ray.tasks.grading.nodes import Node
from s2l_ray.tasks.grading.values import Evaluation, NoValueError, context

_LETTER = r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:\{[^{}]*\}|\w))?'*"
_SIMPLE = rf"(?:{_LETTER}|\d+)"
_NAME = re.compile(
    rf"{_LETTER}"
    rf"|(?![xyz]\(){_LETTER}(?:\^\{{?-1\}}?)?\({_SIMPLE}(?:,{_SIMPLE})*\)"  # f(x), T(n), f^{-1}(x)
    rf"|(?:sin|cos|tan|cot|sec|csc)\(?{_LETTER}\)?"
    r"|(?:P|E|Var)\([^()]*\)"
    r"|\|?[A-Z](?:[A-Z](?:_\{?\w\}?)?'?){1,4}\|?|\[[A-Z]{3,5}\]"  # the segment AB, the area [ABC]
    rf"|\({_LETTER}(?:,{_LETTER})+\)"
    rf"|{_LETTER}(?::{_LETTER})+"  # the ratio a:b
    r"|frac\{[A-Z]{2}\}\{[A-Z]{2}\}|[A-Z]{2}/[A-Z]{2}"
    r"|[A-Za-z]{4,}|(?:[A-Za-z_]*\\text\{[^{}]*\})+|frac\{d\w\}\{d\w\}|d\w/d\w"
)
_NEAR = 0.05
"""Of a value, how far what follows an approximation sign may be from it."""


@dataclass(frozen=True)
class Stated:
    """What `name = value` states; a chain's value stands last."""

    name: str
    """Without blanks; empty for a chain of equal values, as in 3 * 6 = 18."""
    values: tuple[Node, ...]
    """The last value, and before it what it approximates, if it does."""


def stated(node: Node, same: Callable[[Node, Node], bool]) -> Stated | None:
    """The value that a relation states, if it is a name and values, or a true chain of equal values; else None."""
    relations = node.name.split() if node.op == "relation" else []
    if not relations or any(relation not in ("=", "~=") for relation in relations):
        return None
    if relations == ["="] and _NAME.fullmatch(node.sources[1]) and not node.args[0].symbols():
        return Stated(node.sources[1], node.args[:1])  # 5 = x
    name = node.sources[0] if _NAME.fullmatch(node.sources[0]) else ""
    start = 1 if name else 0
    values, signs = node.args[start:], relations[start:]
    given: tuple[Node, ...] = (values[0],)
    for sign, (left, right) in zip(signs, pairwise(values), strict=True):
        if sign == "~=":
            if not _near(left, right):
                return None
            given = (left, right)
        elif (name and (left.symbols() | right.symbols()) - {"e", "i", "pi"}) or same(left, right):
            given = (right,)  # V = a b c = 6 states 6, whatever a, b and c are
        else:
            return None
    return Stated(name, given)


def names_agree(gold: str, found: str) -> bool:
    """Whether two left sides may name the same: y and f(x), f(n) and f(m), a word and anything; not x and y."""
    if gold == found or not gold or not found:
        return True
    if "text{" in gold + found or any(re.fullmatch("[A-Za-z]{4,}", name) for name in (gold, found)):
        return True
    heads = [name.partition("(")[0] for name in (gold, found)]
    if "" in heads:
        return False
    applied = ["(" in name for name in (gold, found)]
    if all(applied):
        return heads[0] == heads[1]
    if any(applied):
        function, letter = (gold, found) if applied[0] else (found, gold)
        return letter not in function[1:]
    return False


def renamed(found: Node, found_name: str, gold_name: str) -> Node:
    """The right side of f(m) = ... with the names that f(n) = ... has for its variables."""
    theirs, ours = (re.findall(_LETTER, name.partition("(")[2]) for name in (found_name, gold_name))
    if len(theirs) != len(ours) or theirs == ours:
        return found
    names = dict(zip(ours, theirs, strict=True)) | dict(zip(theirs, ours, strict=True))
    return found.mapped(lambda n: Node("symbol", name=names.get(n.name, n.name)) if n.op == "symbol" else n)


def relations_equal(gold: Node, found: Node) -> bool:
    """Whether two equations or inequalities with variables hold for the same values of them."""
    golds, founds = _differences(gold), _differences(found)
    if golds is None or founds is None or len(golds) != len(founds):
        return False
    return all(one[0] == other[0] and _one_equal(*one, other[1]) for one, other in zip(golds, founds, strict=True))


def _differences(node: Node) -> list[tuple[str, Node]] | None:
    """Each link of a chain as (relation to 0, difference), where > and >= are turned around."""
    links = []
    for relation, (left, right) in zip(node.name.split(), pairwise(node.args), strict=True):
        if relation not in ("=", "<", ">", "<=", ">=", "!="):
            return None
        less, more = (right, left) if relation in (">", ">=") else (left, right)
        links.append((relation.replace(">", "<"), Node("add", (less, Node("neg", (more,))))))
    return links if links[0][0] == "=" or len(links) == 1 else sorted(links, key=repr)


def _one_equal(relation: str, gold: Node, found: Node) -> bool:
    variables = gold.symbols() - {"e", "i", "pi"}
    if not variables or variables != found.symbols() - {"e", "i", "pi"}:
        return False
    points = Points(gold, found, variables)
    ratios = list(_ratios(gold, found, points))
    if len(ratios) > 1 and all(close(ratios[0], ratio) for ratio in ratios):
        return relation in ("=", "!=") or (context().im(ratios[0]) == 0 and context().re(ratios[0]) > 0)
    if relation != "=" or len(variables) < 2:
        return False
    return _vanish_together(gold, found, points)


def _ratios(gold: Node, found: Node, points: Points) -> Iterator[Any]:
    for index in range(5):
        evaluation = Evaluation(points.at(index))
        try:
            values = evaluation.value(gold), evaluation.value(found)
        except NoValueError:
            continue
        if values[0] != 0 and values[1] != 0:
            yield values[0] / values[1]


def _vanish_together(gold: Node, found: Node, points: Points) -> bool:
    """Whether each is zero where the other is, at the places that are found: y = 1/x and xy = 1."""
    checked = 0
    for one, other in ((gold, found), (found, gold)):
        for index, name in enumerate(points.variables):
            starts = (0.7, -1.3, *(points.at(place)[name] for place in (-2, -1)))
            for point in _zeros(one, name, points.at(index % 3), starts):
                evaluation = Evaluation(point)
                try:
                    value = evaluation.value(other)
                except NoValueError:
                    continue
                if abs(value) > context().mpf(10) ** -15 * (1 + evaluation.scale):
                    return False
                checked += 1
    return checked >= 3


def _zeros(node: Node, name: str, point: dict[str, Any], starts: Iterable[Any]) -> Iterator[dict[str, Any]]:
    mp = context()

    def value(x: Any) -> Any:
        return Evaluation({**point, name: x}).value(node)

    for start in starts:
        try:
            yield {**point, name: mp.findroot(value, mp.mpf(start), maxsteps=30)}
        except (ArithmeticError, ValueError, TypeError):
            continue


def _near(left: Node, right: Node) -> bool:
    """Whether the right side of a sign for approximation is near the left one; of two numbers, whether it rounds it."""
    try:
        values = Evaluation({}).value(left), Evaluation({}).value(right)
    except NoValueError:
        return False
    difference = abs(values[0] - values[1])
    if not context().isfinite(difference):
        return False
    if left.op == right.op == "number" and right.sources:
        digits = right.sources[0]
        zeros = len(digits) - len(digits.rstrip("0")) if digits.strip("0").isdigit() else -len(digits.partition(".")[2])
        return bool(difference <= context().mpf(10) ** zeros / 2)  # 41 is not about 42, and 41.7 is
    return bool(difference <= _NEAR * abs(values[0]))
