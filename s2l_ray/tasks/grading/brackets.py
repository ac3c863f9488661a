"""What stands in brackets: groups, tuples, intervals, sets, absolute values and matrices."""

from __future__ import annotations

from s2l_ray.tasks.grading.cursor import Cursor
from s2l_ray.tasks.grading.nodes import Node, UnreadableError
from s2l_ray.tasks.grading.tokens import Token


class Brackets(Cursor):
    """Reads brackets, from behind the opening one."""

    def group(self) -> Node:
        """What stands in braces that LaTeX does not print."""
        inner = self.inside(self.listed, in_builder=False)
        if self.peek()[:2] == ("command", "choose"):
            self.take()
            inner = Node("call", (inner, self.inside(self.listed, in_builder=False)), "binomial")
        self.expect("}")
        return inner

    def bracket(self, token: Token) -> Node:
        """What the bracket `token` opens."""
        reader = {"{": self._braces, "{(": self._set, "|": self._bars, "]": self._reversed}.get(token.text)
        if reader is not None:
            return reader()
        if token.text == "'":
            return Node("symbol", name="''" if self.take_sign("'") else "'")
        if token.text in ("floor(", "ceil("):
            inner = self.closed({"floor(": ")floor", "ceil(": ")ceil"}[token.text])
            return Node("call", (inner,), token.text[:-1])
        if token.text not in ("(", "[", "<("):
            raise UnreadableError(f"{token.text!r} is not expected here")
        inner = self.inside(self.listed, in_builder=False)
        closing = self.take().text if not self.ended() else ""
        if closing not in (")", "]", ")>", "["):
            raise UnreadableError("a bracket is not closed")
        delimiters = ("(" if token.text == "<(" else token.text) + {")>": ")", "[": ")"}.get(closing, closing)
        if inner.op == "list":
            return Node("bracket", inner.args, delimiters)
        if delimiters in ("(]", "[)"):
            raise UnreadableError("an interval has two ends")
        return inner

    def _reversed(self) -> Node:
        """]a, b[ for an open interval."""
        inner = self.inside(self.listed, in_builder=False)
        closing = self.take().text if not self.ended() else ""
        if inner.op != "list" or closing not in ("[", "]"):
            raise UnreadableError("']' is not expected here")
        return Node("bracket", inner.args, "()" if closing == "[" else "(]")

    def _braces(self) -> Node:
        inner = self.group()
        return Node("set", inner.args) if inner.op == "list" else inner

    def _set(self) -> Node:
        if self.take_sign(")}"):
            return Node("empty")
        inner = self.inside(self.listed, in_builder=True)
        if self.take_sign("|") or self.take_sign(":"):
            condition = self.inside(self.listed, in_builder=False)
            self.expect(")}")
            return Node("builder", (inner, condition))
        self.expect(")}")
        return Node("set", inner.args if inner.op == "list" else (inner,))

    def _bars(self) -> Node:
        self.take_sign("|")  # ||v||
        before, self.in_bars = self.in_bars, True
        inner = self.sum()
        self.in_bars = before
        self.expect("|")
        self.take_sign("|")
        return Node("call", (inner,), "abs")

    def matrix(self, token: Token) -> Node:
        """The rows of the environment that `token` begins."""
        if "matrix" not in token.text and token.text != "array":
            raise UnreadableError(f"the environment {token.text} is not known here")
        rows: list[list[Node]] = [[]]
        while self.peek().kind != "end":
            rows[-1].append(self.inside(self.sum, in_builder=False))
            if self.take_sign("\\\\"):
                rows.append([])
            elif not self.take_sign("&") and self.peek().kind != "end":
                raise UnreadableError("a matrix is not closed")
        self.take()
        if not any(rows):
            raise UnreadableError("a matrix without cells")
        lines = tuple(Node("list", tuple(row)) for row in rows if row)
        return Node("matrix", lines, "det" if token.text == "vmatrix" else "")
