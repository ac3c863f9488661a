"""Do two answers that were read mean the same? What kind of thing each is decides how they are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from s2l_ray.tasks.grading.equality import expressions_equal
from s2l_ray.tasks.grading.equations import Stated, names_agree, relations_equal, renamed, stated
from s2l_ray.tasks.grading.nodes import Node, number
from s2l_ray.tasks.grading.regions import NoRegionError, is_inequality, region_of, regions_equal

_COLLECTIONS = frozenset({"list", "set", "bracket"})
_REGIONS = frozenset({"union", "intersection", "difference", "builder", "reals"})
_MOST_ELEMENTS = 64
"""Elements that are compared each with each."""


def same(gold: Node, found: Node) -> bool:
    """Whether `found` states what `gold` states.

    Raises:
        UnreadableError: they have no values by which they can be compared.
    """
    if gold == found:
        return True
    for compare in _KINDS:
        verdict = compare(gold, found)
        if verdict is not None:
            return verdict
    return expressions_equal(gold, found)


def _units(gold: Node, found: Node) -> bool | None:
    """Another unit than the gold answer's is wrong, none is right."""
    if "unit" not in (gold.op, found.op):
        return None
    if gold.op == found.op:
        units = gold.name, found.name
        if units[0] != units[1] and not any(a.startswith(f"{b}/") for a, b in (units, units[::-1])):
            return False
    return same(*(side.args[0] if side.op == "unit" else side for side in (gold, found)))


def _scaled(gold: Node, found: Node) -> bool | None:
    """50% is 50 and 1/2; 90 degrees are pi/2 and, for a gold answer that says degrees, 90."""
    for op, factor in (("percent", number(100)), ("degrees", Node("div", (number(180), Node("symbol", name="pi"))))):
        if gold.op == found.op == op:
            return same(gold.args[0], found.args[0])
        if op in (gold.op, found.op):
            bare = [side.args[0] if side.op == op else side for side in (gold, found)]
            scaled = [Node("div", (side.args[0], factor)) if side.op == op else side for side in (gold, found)]
            return same(*bare) or same(*scaled)
    return None


def _regions(gold: Node, found: Node) -> bool | None:
    """Intervals, inequalities and sets of real numbers, if one of the two is no other thing."""
    if not any(side.op in _REGIONS or is_inequality(side) for side in (gold, found)):
        return None
    gold, found = _without_name_of_set(gold), _without_name_of_set(found)
    try:
        return regions_equal(region_of(gold), region_of(found))
    except NoRegionError:
        pass
    if gold.op == found.op == "relation":
        return relations_equal(gold, found)
    if gold.op == found.op and gold.op in _REGIONS | {"list"} and len(gold.args) == len(found.args):
        return all(same(a, b) for a, b in zip(gold.args, found.args, strict=True))
    return False


def _without_name_of_set(node: Node) -> Node:
    """The right side of S = [1, 2]."""
    value = stated(node, same)
    return value.values[-1] if value is not None and value.values[-1].op in _REGIONS | _COLLECTIONS else node


def _membership(gold: Node, found: Node) -> bool | None:
    """X in A is A, and has the same x."""
    if not any(_is_membership(side) for side in (gold, found)):
        return None
    if _is_membership(gold) and _is_membership(found) and gold.sources[0] != found.sources[0]:
        return False
    return same(*(side.args[1] if _is_membership(side) else side for side in (gold, found)))


def _is_membership(node: Node) -> bool:
    return node.op == "relation" and node.name == "in"


def _statements(gold: Node, found: Node) -> bool | None:
    """Name = value is the value, and the same value of the same name."""
    of_gold, of_found = stated(gold, same), stated(found, same)
    if of_gold is not None and of_found is not None and names_agree(of_gold.name, of_found.name):
        values = [renamed(value, of_found.name, of_gold.name) for value in of_found.values]
        return any(same(a, b) for a in of_gold.values for b in values)
    if of_gold is not None and found.op != "relation":
        return _named_collection(of_gold, found) or any(same(value, found) for value in of_gold.values)
    if of_found is not None and gold.op != "relation":
        return any(same(gold, value) for value in of_found.values)
    return None


def _relations(gold: Node, found: Node) -> bool | None:
    """Equations and congruences; one is nothing but another of its kind."""
    if "relation" not in (gold.op, found.op):
        return None
    if found.name == "equiv" and gold.op != "relation" and found.args[-1].name == "mod":
        residue = found.args[-1].args[0]  # the remainder 2 of 2^10 = 2 mod 7
        return residue.op == "number" and same(gold, residue)
    if gold.op != found.op:
        return False if {gold.op, found.op}.isdisjoint(_COLLECTIONS) else None
    if gold.name == found.name == "equiv" and len(gold.args) == len(found.args):
        # The residue is compared as a value, 8 mod 5 is 3, and the modulus beside it.
        moduli = [[part.args[1] for part in side.walk() if part.name == "mod"] for side in (gold, found)]
        return _in_order(gold.args, found.args) and _in_order(*moduli)
    return relations_equal(gold, found)


def _named_collection(gold: Stated, found: Node) -> bool:
    """(x, y) = (1, 2) and y = 2, x = 1."""
    if found.op != "list" or not gold.name.startswith("("):
        return False
    names = gold.name.strip("()").split(",")
    values = {item.name: item.values[-1] for item in _stated_items(found)}
    elements = gold.values[-1].args
    return (
        len(elements) == len(names) == len(values)
        and set(values) == set(names)
        and all(same(element, values[name]) for name, element in zip(names, elements, strict=True))
    )


def _stated_items(node: Node) -> list[Stated]:
    """What the elements of a list state, if each states something with a name of its own; else nothing."""
    items = [stated(element, same) for element in node.args]
    named = [item for item in items if item is not None and item.name]
    return named if len({item.name for item in named}) == len(node.args) else []


def _signs(gold: Node, found: Node) -> bool | None:
    r"""1 \pm 2 is 3 and -1."""
    expanded = [_with_both_signs(side) for side in (gold, found)]
    if expanded[0] == gold and expanded[1] == found:
        return None
    return same(*expanded)


def _with_both_signs(node: Node) -> Node:
    if node.op == "list":
        pairs = [(item, _with_both_signs(item)) for item in node.args]
        flat = tuple(one for item, both in pairs for one in (both.args if both.op == "list" != item.op else (both,)))
        return Node("list", flat, node.name) if flat != node.args else node
    if node.op in _COLLECTIONS | {"relation"} or not any(part.op == "plus_minus" for part in node.walk()):
        return node

    def choose(upper: bool) -> Node:
        def change(part: Node) -> Node:
            if part.op != "plus_minus":
                return part
            left, right = part.args
            return Node("add", (left, right if (part.name == "+-") == upper else Node("neg", (right,))))

        return node.mapped(change)

    return Node("list", (choose(True), choose(False)), ",")


def _collections(gold: Node, found: Node) -> bool | None:
    kinds = {gold.op, found.op}
    if not kinds & _COLLECTIONS or "matrix" in kinds:
        return None
    if not kinds <= _COLLECTIONS:
        return _single(gold, found)
    if gold.op == found.op == "bracket":
        alike = gold.name == found.name or (len(gold.args) > 2 and {gold.name, found.name} == {"()", "[]"})
        return alike and _in_order(gold.args, found.args)
    if "bracket" in kinds:
        return "set" not in kinds and _bracket_and_list(gold, found)
    if _stated_items(gold) and not _stated_items(found):
        return _in_order(_values(gold), found.args)
    return _in_any_order(gold.args, found.args)


def _bracket_and_list(gold: Node, found: Node) -> bool:
    """The brackets of a point or a tuple may be left out, those of an interval may not."""
    delimiters = gold.name if gold.op == "bracket" else found.name
    is_interval = delimiters not in ("()", "[]") or (delimiters == "[]" and len(gold.args) == 2)
    return not is_interval and _in_order(_values(gold), _values(found))


def _values(node: Node) -> Sequence[Node]:
    return [item.values[-1] for item in _stated_items(node)] or node.args


def _single(gold: Node, found: Node) -> bool:
    """A set of one element and that element; nothing else has one element on one side only."""
    for one, other in ((gold, found), (found, gold)):
        if one.op == "set" and len(one.args) == 1 and other.op not in _COLLECTIONS:
            return same(gold.args[0], found) if one is gold else same(gold, found.args[0])
    return False


def _in_order(golds: Sequence[Node], founds: Sequence[Node]) -> bool:
    return len(golds) == len(founds) and all(same(a, b) for a, b in zip(golds, founds, strict=True))


def _in_any_order(golds: Sequence[Node], founds: Sequence[Node]) -> bool:
    if len(golds) < len(founds) and len(golds) == len(_distinct(golds)):
        founds = _distinct(founds)
    if len(golds) != len(founds) or len(golds) > _MOST_ELEMENTS:
        return _in_order(golds, founds)
    left = list(founds)
    for one in golds:
        match = next((place for place, other in enumerate(left) if same(one, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _distinct(nodes: Sequence[Node]) -> list[Node]:
    if len(nodes) > _MOST_ELEMENTS:
        return list(nodes)
    distinct: list[Node] = []
    for node in nodes:
        if not any(same(node, other) for other in distinct):
            distinct.append(node)
    return distinct


def _vectors(gold: Node, found: Node) -> bool | None:
    """Matrices, and vectors that are written as matrices or as tuples."""
    if "matrix" not in (gold.op, found.op):
        return None
    if gold.op == found.op:
        shapes = [[len(row.args) for row in side.args] for side in (gold, found)]
        return gold.name == found.name and shapes[0] == shapes[1] and _in_order(_cells(gold), _cells(found))
    matrix, other = (gold, found) if gold.op == "matrix" else (found, gold)
    if other.op not in ("bracket", "list") or not (len(matrix.args) == 1 or len(matrix.args[0].args) == 1):
        return False
    return _in_order(*(_cells(side) if side.op == "matrix" else side.args for side in (gold, found)))


def _cells(matrix: Node) -> list[Node]:
    return [cell for row in matrix.args for cell in row.args]


def _ratios(gold: Node, found: Node) -> bool | None:
    """1 : 2 is 2 : 4 and 1/2."""
    if "ratio" not in (gold.op, found.op):
        return None
    if gold.op == "ratio" and not _is_reduced(gold):
        return gold.op == found.op and _in_order(gold.args, found.args)
    if gold.op != found.op:
        sides = [Node("div", side.args) if side.op == "ratio" else side for side in (gold, found)]
        return not any(side.op == "ratio" and len(side.args) > 2 for side in (gold, found)) and same(*sides)
    return len(gold.args) == len(found.args) and all(
        same(Node("div", (a, gold.args[0])), Node("div", (b, found.args[0])))
        for a, b in zip(gold.args, found.args, strict=True)
    )


def _is_reduced(ratio: Node) -> bool:
    """Whether a ratio has no common factor and no zero: 3:30 and 12:00 are times, which are the same as no other."""
    if any(part.op != "number" or part.number.denominator != 1 for part in ratio.args):
        return True
    parts = [part.number.numerator for part in ratio.args]
    return 0 not in parts and math.gcd(*parts) == 1


_KINDS = (_units, _scaled, _regions, _membership, _statements, _relations, _signs, _collections, _vectors, _ratios)
