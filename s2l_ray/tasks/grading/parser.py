"""The tree of an answer: from commas and relations down to sums, by recursive descent; atoms are in `grading.atoms`."""

from __future__ import annotations

from functools import lru_cache

from s2l_ray.tasks.grading.atoms import Atoms
from s2l_ray.tasks.grading.nodes import Node, UnreadableError, number
from s2l_ray.tasks.grading.text import normalised, without_thousands_separators
from s2l_ray.tasks.grading.tokens import tokens

KEPT = 4096
"""Answers that a process keeps read: many rollouts of a group give the same one."""
LONGEST_KEPT = 200
"""Characters; the tree of a longer one takes up to 100 kB, and hardly ever comes again."""
_RELATIONS = frozenset({"=", "<", ">", "<=", ">=", "!=", "~=", "in", "equiv"})
_SETS = {"cup": "union", "cap": "intersection", "setminus": "difference"}
_SIGNS = frozenset({"+", "-", "+-", "-+"})


def read(answer: str) -> Node:
    """The tree of an answer that is already `normalised`.

    Raises:
        UnreadableError: it is not in a notation that is known here.
        RecursionError: its brackets are nested too deeply.
    """
    return _kept(answer) if len(answer) <= LONGEST_KEPT else _tree(answer)


def _tree(answer: str) -> Node:
    parser = _Parser(tokens(without_thousands_separators(answer)))
    node = parser.listed()
    if not parser.ended():
        raise UnreadableError(f"{parser.peek().text!r} is not expected here")
    return node


_kept = lru_cache(KEPT)(_tree)


def read_text(answer: str) -> Node:
    """The tree of an answer as it is written. Raises as `read`."""
    return read(normalised(answer))


class _Parser(Atoms):
    """What is between atoms, from the weakest binding to the strongest."""

    def listed(self) -> Node:
        groups = [self._grouped()]
        while self.take_sign(";"):
            if not self.ended():
                groups.append(self._grouped())
        if len(groups) == 1:
            return groups[0]
        # p = 5, q = 2; p = 7, q = 2 are two pairs; 1; 2; 3 is one list.
        return Node("list", tuple(groups), ",")

    def _grouped(self) -> Node:
        items, names = [self._relation()], {","}
        while self._take_separators(names) and not self.ended() and self.peek().text != ";":
            items.append(self._relation())
        if len(items) == 1:
            return items[0]
        return Node("list", tuple(items), next((name for name in ("or", "and") if name in names), ","))

    def _take_separators(self, names: set[str]) -> bool:
        start = self.position
        while any(self.take_sign(separator) for separator in (",", "or", "and")):
            names.add(self.previous().text)
        return self.position > start

    def _relation(self) -> Node:
        start = self.position
        sides, relations, sources = [self._sets()], [], [self.source(start)]
        while self.peek().kind == "sign" and self.peek().text in _RELATIONS:
            relations.append(self.take().text)
            if relations[-1] == "=" and self.take_sign("~"):
                relations[-1] = "~="
            start = self.position
            sides.append(self._sets())
            sources.append(self.source(start))
        if not relations:
            return sides[0]
        return Node("relation", tuple(sides), " ".join(relations), sources=tuple(sources))

    def _sets(self) -> Node:
        node = self._ratio()
        while self.peek().kind == "sign" and self.peek().text in _SETS:
            node = Node(_SETS[self.take().text], (node, self._ratio()))
        return node

    def _ratio(self) -> Node:
        parts = [self.sum()]
        while not self.in_builder and self.take_sign(":"):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Node("ratio", tuple(parts))

    def sum(self) -> Node:
        terms = [] if self._at_sign() else [self.term()]
        while self._at_sign():
            sign, term = self.take().text, self.term()
            if sign in ("+-", "-+"):
                terms = [Node("plus_minus", (_added(terms) if terms else number(0), term), sign)]
            else:
                terms.append(Node("neg", (term,)) if sign == "-" else term)
        return _added(terms)

    def _at_sign(self) -> bool:
        return self.peek().kind == "sign" and self.peek().text in _SIGNS

    def term(self) -> Node:
        node = self.factor()
        while True:
            if self.take_sign("*"):
                node = Node("mul", (node, self.factor()))
            elif self.take_sign("/"):
                node = Node("div", (node, self.factor()))
            elif self.starts_factor():
                node = Node("mul", (node, self.factor()))
            else:
                return node


def _added(terms: list[Node]) -> Node:
    return terms[0] if len(terms) == 1 else Node("add", tuple(terms))
